"""python -m alpaca.export_check reference|written SPEC: is what was written the run's model? Each in a fresh process.

reference   the run's model as PEFT and transformers load it, in float32: logits, and a greedy continuation of each text
written     what was exported, loaded as a user would, against these

A model that does not fit in memory is computed layer by layer: the logits of the texts alone, and every tensor against
what PEFT merges.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca import console

if TYPE_CHECKING:
    import torch

EQUAL = 1e-3
"""Largest difference of a logit, relative to the largest, between the export and the run's weights rounded alike."""
ROUNDED = {"float32": EQUAL, "float16": 0.01, "bfloat16": 0.05}
"""The same against the run before rounding, by the dtype that was written."""
GGUF = {"float32": 2e-3, "auto": 0.01, "float16": 0.01, "bfloat16": 0.05, "q8_0": 0.1}
"""The same between llama.cpp and the run in float32: llama.cpp rounds activations too."""
NEW = 16


def main(step: str, path: Path) -> int:
    """Print one line or two; 0 when all is well."""
    console.quiet_libraries()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    spec = json.loads(path.read_text(encoding="utf-8"))
    if step == "reference":
        return reference_streamed(spec) if spec["streamed"] else reference(spec)
    if spec["streamed"] and spec["format"] != "gguf":
        return written_streamed(spec)
    return {"hf": merged, "adapter": adapter, "gguf": gguf}[spec["format"]](spec)


def reference(spec: dict[str, Any]) -> int:
    """Write what the run's model answers: unmerged, and merged by PEFT with its weights rounded to the dtype."""
    import torch
    from peft import PeftModel
    from safetensors.torch import save_file

    from alpaca import model as base_model
    from alpaca import tokenizer as tokenizers
    from alpaca.config import ModelConfig

    model: Any = base_model.load(ModelConfig("export", path=spec["base"]), torch.float32)
    tokenizer = tokenizers.load_tokenizer(spec["tokenizer"])
    tokenizers.check_special_tokens(tokenizer)
    base_model.fit_vocabulary(model, tokenizer)
    if spec["adapter"]:
        model = PeftModel.from_pretrained(model, spec["adapter"])
    model.eval()
    out: dict[str, torch.Tensor] = {}
    for i, ids in enumerate(spec["ids"]):
        out[f"ids {i}"] = _greedy(model, ids)
        out[f"logits {i}"] = _logits(model, out[f"ids {i}"])
    if spec["adapter"]:
        model = model.merge_and_unload()
    if spec["dtype"] in ("float16", "bfloat16"):
        for parameter in model.parameters():
            parameter.data = parameter.data.to(getattr(torch, spec["dtype"])).float()
    for i in range(len(spec["ids"])):
        out[f"rounded {i}"] = _logits(model, out[f"ids {i}"])
    save_file(out, spec["probe"])
    print(f"the run's model answered {len(spec['ids'])} prompts, {NEW} tokens each")
    return 0


def reference_streamed(spec: dict[str, Any]) -> int:
    """Write the logits of the run's model, unmerged, in one pass through its files."""
    from safetensors.torch import save_file

    out = {}
    for i, (ids, logits) in enumerate(_in_one_pass(spec, spec["base"], spec["adapter"])):
        out[f"ids {i}"], out[f"logits {i}"] = ids, logits
    save_file(out, spec["probe"])
    print(f"the run's model read {len(spec['ids'])} prompts, layer by layer")
    return 0


def _in_one_pass(spec: dict[str, Any], folder: str, adapter: str | None) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """Token ids and logits of each text. Padding behind a text changes nothing in front of it."""
    import torch

    from alpaca import streamed, weights

    source = weights.Source(Path(folder), None, spec["rows"])
    source.rows = max(source.rows, source.config.vocab_size)  # before a row was trimmed
    model = streamed.build(source, Path(adapter) if adapter else None)
    texts = [torch.tensor(ids) for ids in spec["ids"]]
    logits = model(torch.nn.utils.rnn.pad_sequence(texts, batch_first=True))
    return [(ids, row[: len(ids)].contiguous()) for ids, row in zip(texts, logits, strict=True)]


def written_streamed(spec: dict[str, Any]) -> int:
    """Logits, layer by layer, and every tensor that was written; 0 when within what rounding allows."""
    from safetensors.torch import load_file

    probe = load_file(spec["probe"])
    merged = spec["format"] == "hf"
    found = _in_one_pass(spec, *((spec["place"], None) if merged else (spec["base"], spec["place"])))
    worst = 0.0
    for i, (_, logits) in enumerate(found):
        wanted = probe[f"logits {i}"][:, : spec["rows"]]
        logits = logits[:, : spec["rows"]]
        worst = max(worst, float((logits - wanted).abs().max() / wanted.abs().max().clamp(min=1)))
    dtype = _dtype(spec["place"] if merged else None, spec["dtype"])
    allowed = ROUNDED[dtype]
    print(f"read layer by layer in a fresh process: logits differ by at most {worst:.2g} of the largest (allowed {allowed:g}, {dtype})")  # fmt: skip
    if worst > allowed:
        return 1
    return tensors(spec) if merged else 0


def _dtype(folder: str | None, asked: str) -> str:
    """The name of the dtype that was written."""
    if folder is None:
        return "float32" if asked == "auto" else asked
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["dtype"]


def tensors(spec: dict[str, Any]) -> int:
    """Each tensor written against the stored one, and where LoRA changes it against what PEFT merges."""
    import torch

    from alpaca import streamed, weights

    base = weights.Source(Path(spec["base"]), None, spec["rows"])
    model = streamed.build(base, Path(spec["adapter"])) if spec["adapter"] else None
    written = weights.Files(Path(spec["place"]))
    names = [n for portion in base.shards() for n in portion]
    if missing := [n for n in names if n not in written]:
        print(f"{missing[0]} was not written")
        return 1
    for name in names:
        tensor = written.read(name)
        changed = model is not None and name in model.layers
        wanted = (model.merged(name) if model is not None and changed else base.tensor(name)).to(tensor.dtype)
        if wanted.shape != tensor.shape or not (_close(tensor, wanted) if changed else torch.equal(tensor, wanted)):
            print(f"{name} is not the run's: {list(tensor.shape)} {tensor.dtype} against {list(wanted.shape)}")
            return 1
    count = len(model.layers) if model is not None else 0
    print(f"{len(names)} tensors are the run's, {count} of them as PEFT merges them")
    return 0


def _close(tensor: Any, wanted: Any) -> bool:
    """Equal but for the order of a sum, and for the last bit where that decides a rounding."""
    import torch

    last_bit = 0.0 if tensor.dtype == torch.float32 else torch.finfo(tensor.dtype).eps
    tensor, wanted = tensor.float(), wanted.float()
    return bool(((tensor - wanted).abs() <= last_bit * wanted.abs() + 1e-5 * wanted.abs().max()).all())


def _greedy(model: Any, ids: list[int]) -> Any:
    import torch

    limit = getattr(model.config, "max_position_embeddings", None) or 10**9
    sequence = torch.tensor([ids])
    for _ in range(min(NEW, limit - len(ids))):
        with torch.no_grad():
            best = model(input_ids=sequence, use_cache=False).logits[0, -1].argmax()
        sequence = torch.cat([sequence, best.view(1, 1)], dim=1)
    return sequence[0]


def _logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=ids[None], use_cache=False).logits[0].float().contiguous()


def _compare(spec: dict[str, Any], model: Any, against: str, allowed: float, what: str) -> int:
    """Print the largest differences relative to the largest logit; 0 when within what is allowed."""
    from safetensors.torch import load_file

    probe = load_file(spec["probe"])
    largest = run = 0.0
    for i in range(len(spec["ids"])):
        ids, rows = probe[f"ids {i}"], spec["rows"]
        if int(ids.max()) >= rows:  # the model said a token that was trimmed
            ids = ids[: len(spec["ids"][i])]
        logits = _logits(model, ids)
        if logits.shape[1] < rows and spec["format"] == "hf":
            print(f"{what} has {logits.shape[1]} rows in its vocabulary instead of {rows}")
            return 1
        rows = min(rows, logits.shape[1])
        for name, value in (("largest", against), ("run", "logits")):
            wanted = probe[f"{value} {i}"][: len(ids), :rows]
            difference = float((logits[:, :rows] - wanted).abs().max() / wanted.abs().max().clamp(min=1))
            largest = max(largest, difference) if name == "largest" else largest
            run = max(run, difference) if name == "run" else run
    rounded = f"; {run:.2g} from the run before rounding" if against == "rounded" and run > largest else ""
    print(f"{what}: logits differ by at most {largest:.2g} of the largest (allowed {allowed:g}){rounded}")
    return 0 if largest <= allowed else 1


def _same_ids(spec: dict[str, Any], folder: str) -> str | None:
    """The text that the exported tokenizer reads otherwise, or None."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(spec["texts"], spec["ids"], strict=True):
        if tokenizer(text, add_special_tokens=spec["special"])["input_ids"] != ids:
            return text
    return None


def merged(spec: dict[str, Any]) -> int:
    """Merged weights by plain transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    if (text := _same_ids(spec, spec["place"])) is not None:
        print(f"its tokenizer gives other ids for {text!r}")
        return 1
    model = AutoModelForCausalLM.from_pretrained(spec["place"], dtype=torch.float32).eval()
    return _compare(spec, model, "rounded", EQUAL, "loaded by transformers in a fresh process")


def adapter(spec: dict[str, Any]) -> int:
    """An adapter by plain PEFT on its base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(spec["base"], dtype=torch.float32)
    model = PeftModel.from_pretrained(model, spec["place"]).eval()
    allowed = EQUAL if spec["dtype"] in ("auto", "float32") else 0.05
    return _compare(spec, model, "logits", allowed, "loaded by PEFT in a fresh process")


def gguf(spec: dict[str, Any]) -> int:
    """GGUF by llama.cpp: token ids, logits and greedy tokens."""
    try:
        import llama_cpp
    except ImportError:
        print(
            "warning: llama-cpp-python is not installed (pip install -r requirements-gguf.txt): the file was not loaded"
        )
        return 0
    import numpy as np
    from safetensors.torch import load_file

    probe = load_file(spec["probe"])
    longest = max(len(probe[f"ids {i}"]) for i in range(len(spec["ids"])))
    model = llama_cpp.Llama(spec["place"], n_ctx=longest + 8, n_batch=longest + 8, logits_all=True, verbose=False, n_threads=1)  # fmt: skip
    worst = equal = total = 0.0
    for i, text in enumerate(spec["texts"]):
        ids, start = probe[f"ids {i}"].tolist(), len(spec["ids"][i])
        own = model.tokenize(text.encode(), add_bos=spec["special"], special=True)
        if own != ids[:start]:
            print(f"llama.cpp reads {text!r} as {own}, the tokenizer as {ids[:start]}")
            return 1
        model.reset()
        model.eval(ids)
        wanted = probe[f"logits {i}"].numpy()
        rows = min(wanted.shape[1], model.n_vocab())
        difference = np.abs(model.scores[: len(ids), :rows] - wanted[:, :rows]).max() / max(1.0, np.abs(wanted).max())
        worst = max(worst, float(difference))
        said = greedy(model, ids[:start], len(ids) - start)
        equal += sum(a == b for a, b in zip(said, ids[start:], strict=True))
        total += len(said)
    allowed = GGUF[spec["dtype"]]
    said_too = f", {equal:.0f} of {total:.0f} greedy tokens the same" if total else ""
    print(
        f"loaded by llama.cpp: the same token ids{said_too}, logits differ by at "
        f"most {worst:.2g} of the largest (allowed {allowed:g})"
    )
    return 0 if worst <= allowed else 1


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """The `count` tokens that llama.cpp puts behind `ids` when it always takes the likeliest."""
    model.reset()
    model.eval(ids)
    said: list[int] = []
    for _ in range(count):
        said.append(int(model.scores[model.n_tokens - 1].argmax()))
        model.eval(said[-1:])
    return said


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2])))
