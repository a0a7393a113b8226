"""python -m alpaca.reload_check RUN: does model/ give the logits that training had in memory? Runs in a fresh process."""

import sys
from pathlib import Path

from alpaca import console
from alpaca.results import RunFolder
from alpaca.saving import PROBE, TOLERANCE


def main(folder: Path) -> int:
    """Print one line; 0 when the saved model is the trained one."""
    console.quiet_libraries()
    import torch
    from safetensors.torch import load_file

    from alpaca import inference

    run = RunFolder(folder)
    probe = load_file(run.path / PROBE)
    loaded = inference.load_run(run, training_precision=True)
    device = next(loaded.model.parameters()).device
    with torch.no_grad():
        ids, mask = probe["input_ids"].to(device), probe["attention_mask"].to(device)
        logits = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().cpu()
    adapter = sum(1 for n, _ in loaded.model.named_parameters() if "lora_" in n)
    if adapter != int(probe["adapter_tensors"]):
        print(f"{adapter} adapter tensors instead of {int(probe['adapter_tensors'])}")
        return 1
    here = probe["attention_mask"].bool()
    largest = float((logits - probe["logits"])[here].abs().max())
    scale = float(probe["logits"][here].abs().max())
    bound = TOLERANCE[loaded.precision] * max(1.0, scale)
    print(f"reloaded in a fresh process: logits differ by at most {largest:.2g} (allowed {bound:.2g})")
    return 0 if largest <= bound else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
