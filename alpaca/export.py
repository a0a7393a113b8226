"""A tuned model in the form that others take: merged weights, an adapter, GGUF, or a difference to the base.

What is written goes beside its place, is loaded again in a fresh process, and only then gets its name.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alpaca import console, saving, weights
from alpaca import tokenizer as tokenizers
from alpaca.config import TrainConfig
from alpaca.config import load as load_config
from alpaca.errors import UserError, first_line, is_write_error
from alpaca.export_config import ExportConfig
from alpaca.prompts import FILE as PROMPT_FILE
from alpaca.prompts import Prompt
from alpaca.results import RunFolder

ASKED = ("Name three primary colours.", "Write a sentence about the sea.", "Count from one to five, in words!")


@dataclass
class Subject:
    """What is exported: weights, tokenizer and prompt, and what is known of how they came to be."""

    source: weights.Source
    tokenizer: Any
    prompt: Prompt | None
    config: TrainConfig | None
    run: RunFolder | None
    trimmed: bool = False


def run(config: ExportConfig) -> None:
    """Write what the config asks for, check it, and say what to do with it. stdout: its path alone."""
    from alpaca import weight_diff

    if config.recover is not None:
        assert config.base is not None and config.output is not None
        target = Path(config.output)
        _whole(target, lambda place: weight_diff.recover(Path(config.recover or ""), config.base or "", place))
    else:
        subject = read(config)
        target = _target(config)
        _whole(target, lambda place: write(subject, place, config))
    print(target)
    if config.push is not None:
        push(target, config.push)


def _target(config: ExportConfig) -> Path:
    if config.output is not None:
        return Path(config.output)
    kind = "q8_0" if config.dtype == "q8_0" else {"float32": "f32", "bfloat16": "bf16"}.get(config.dtype, "f16")
    name = f"model-{kind}.gguf" if config.format == "gguf" else config.format
    target = Path(config.run or "") / "exports" / name
    if target.exists():
        raise UserError(f"{target} is there already: remove it, or give another place with output=…")
    return target


def _whole(target: Path, work: Any) -> None:
    """Let `work` fill a place beside `target`; rename it when that went well, remove it when not."""
    place = target.with_name(f".{target.name}.writing")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(place)
        work(place)
        place.rename(target)
    except BaseException as error:
        _remove(place)
        if is_write_error(error) and not isinstance(error, UserError):
            raise UserError(
                f"{target} cannot be written ({first_line(error)}): free some space, or output=…"
            ) from error
        raise


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)


def read(config: ExportConfig) -> Subject:
    """The weights that are meant, with what belongs to them. Raises UserError."""
    trained, run = None, None
    if config.run is not None:
        run = RunFolder(config.run)
        trained = _trained(run)
        adapter = run.model if trained.method.train == "lora" else None
        base = str(run.model) if adapter is None else trained.model.path or str(run.base)
        revision = trained.model.revision if adapter is not None else None
    else:
        assert config.model is not None
        base, adapter, revision = config.model, Path(config.adapter) if config.adapter else None, None
        if adapter is not None and not (adapter / "adapter_model.safetensors").is_file():
            raise UserError(f"adapter={adapter} has no adapter_model.safetensors: it takes a folder that PEFT saved")
    if config.format == "adapter" and adapter is None:
        raise UserError("format=adapter takes a run of method=lora, lora8bit or qlora: this one trained every weight; format=hf")  # fmt: skip
    folder = weights.local_folder(base, revision)
    home = adapter if adapter is not None and (adapter / "tokenizer_config.json").is_file() else folder
    tokenizer = tokenizers.load_tokenizer(str(home), trust_remote_code=config.trust_remote_code)
    tokenizers.check_special_tokens(tokenizer)
    prompt = Prompt.load(home) if (home / PROMPT_FILE).is_file() else None
    rows, trimmed = _rows(folder, adapter, tokenizer, trained, config.vocabulary == "trim")
    return Subject(weights.Source(folder, adapter, rows), tokenizer, prompt, trained, run, trimmed)


def _trained(run: RunFolder) -> TrainConfig:
    if not run.config.is_file() or not run.model.is_dir():
        status = run.read_result().get("status", "no run folder, or not finished")
        raise UserError(f"run={run.path} has no config.yaml with a model/ ({status}): it takes a finished run folder")
    return load_config(OmegaConf.to_container(OmegaConf.load(run.config), resolve=True))


def _rows(
    folder: Path, adapter: Path | None, tokenizer: Any, trained: TrainConfig | None, trim: bool
) -> tuple[int, bool]:
    """Rows of the embeddings as exported, and whether that is fewer than training had."""
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    full = max(stored, len(tokenizer))
    if not trim:
        return full, False
    before = stored
    if adapter is None:
        source = trained.model if trained is not None else None
        if source is None or source.path is None:
            raise UserError("vocabulary=trim: the size of the base's vocabulary is not known; only a run on a base has it")  # fmt: skip
        base = weights.local_folder(source.path, source.revision)
        before = json.loads((base / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    if before == full:
        console.say(f"notice: vocabulary=trim has nothing to do: training added no row to the {full:,} of the base")
    return before, before < full


def write(subject: Subject, place: Path, config: ExportConfig) -> None:
    """One format, and its check."""
    from alpaca import gguf_file, weight_diff

    if config.format == "gguf":
        gguf_file.write(subject, place, config.dtype)
    elif config.format == "diff":
        weight_diff.write(subject, place, config)
    elif config.format == "adapter":
        write_adapter(subject, place, config.dtype)
    else:
        write_merged(subject, place, config.dtype)
    if config.verify == "none":
        console.warn("verify=none: what was written was not compared with the run")
    elif config.format == "diff":
        console.say(weight_diff.check(subject, place, config))
    else:
        verify(subject, place, config)


def write_merged(subject: Subject, place: Path, dtype: str) -> None:
    """A folder for `from_pretrained`: shard by shard as the base is stored."""
    place.mkdir()
    kind = write_weights(subject, place, dtype)
    write_surroundings(subject, place, kind)


def write_weights(subject: Subject, place: Path, dtype: str, change: Any = None) -> str:
    """Safetensors, a file for each of the base's; `change(name, tensor)` may replace a tensor. Returns the dtype."""
    import torch
    from safetensors.torch import save_file
    from tqdm.auto import tqdm

    source = subject.source
    kind = None if dtype == "auto" else getattr(torch, dtype)
    shards, index, total, seen = source.shards(), dict[str, str](), 0, "float32"
    with tqdm(total=sum(map(len, shards)), unit="tensor", disable=None, leave=False) as bar:
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
            portion = {}
            for name in names:
                tensor = source.tensor(name, kind)
                seen = str(tensor.dtype).removeprefix("torch.") if tensor.is_floating_point() else seen
                portion[name] = tensor if change is None else change(name, tensor)
                total += portion[name].nbytes
                bar.update()
            save_file(portion, place / file, metadata={"format": "pt"})
            index |= dict.fromkeys(names, file)
    if len(shards) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (place / "model.safetensors.index.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return seen


def write_surroundings(subject: Subject, place: Path, dtype: str) -> None:
    """Config, generation settings, tokenizer, prompt and card beside merged weights."""
    import torch
    from transformers import GenerationConfig

    source = subject.source
    subject.tokenizer.save_pretrained(place)
    if subject.trimmed:
        _trim_tokenizer(place, source.rows)
    pad = json.loads((place / "tokenizer_config.json").read_text(encoding="utf-8")).get("pad_token")
    ids = {name: getattr(subject.tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    ids["pad_token_id"] = subject.tokenizer.convert_tokens_to_ids(pad) if pad else None
    settings = source.config
    settings.vocab_size, settings.dtype = source.rows, getattr(torch, dtype)
    for name, value in ids.items():
        setattr(settings, name, value)
    settings.save_pretrained(place)
    kept = source.base / "generation_config.json"
    generation = GenerationConfig.from_pretrained(source.base) if kept.is_file() else GenerationConfig()
    if isinstance(generation.eos_token_id, list):
        ids.pop("eos_token_id")
    generation.update(**ids)
    generation.save_pretrained(place)
    if subject.prompt is not None:
        subject.prompt.save(place)
    (place / "README.md").write_text(card(subject, merged=True), encoding="utf-8")


def _trim_tokenizer(place: Path, rows: int) -> None:
    """Take the tokens beyond the base's vocabulary out of the saved tokenizer; padding falls to unk or EOS."""
    path = place / "tokenizer.json"
    if not path.is_file():
        raise UserError("vocabulary=trim needs a tokenizer that saves as tokenizer.json: use vocabulary=keep")
    content = json.loads(path.read_text(encoding="utf-8"))
    gone = {t["content"] for t in content["added_tokens"] if t["id"] >= rows}
    content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] < rows]
    content["padding"] = None
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    for file in (place / "tokenizer_config.json", place / "special_tokens_map.json"):
        if not file.is_file():
            continue
        settings = json.loads(file.read_text(encoding="utf-8"))
        named = settings.get("pad_token")
        if (named.get("content") if isinstance(named, dict) else named) in gone:
            settings["pad_token"] = settings.get("unk_token") or settings.get("eos_token")
        if "added_tokens_decoder" in settings:
            settings["added_tokens_decoder"] = {k: v for k, v in settings["added_tokens_decoder"].items() if int(k) < rows}  # fmt: skip
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
    (place / "added_tokens.json").unlink(missing_ok=True)
    left = len(tokenizers.load_tokenizer(str(place)))
    if left > rows:
        raise UserError(f"vocabulary=trim left {left:,} tokens for {rows:,} rows: use vocabulary=keep")
    console.say(f"notice: {', '.join(sorted(gone))} taken out: {rows:,} rows, as the base has")


def write_adapter(subject: Subject, place: Path, dtype: str) -> None:
    """A folder for PEFT."""
    import torch
    from safetensors.torch import save_file

    folder = subject.source.adapter
    assert folder is not None
    place.mkdir()
    with weights.opened(folder / "adapter_model.safetensors") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if dtype != "auto":
        tensors = {k: v.to(getattr(torch, dtype)).contiguous() for k, v in tensors.items()}
    save_file(tensors, place / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copy(folder / "adapter_config.json", place)
    subject.tokenizer.save_pretrained(place)
    if subject.prompt is not None:
        subject.prompt.save(place)
    (place / "README.md").write_text(card(subject, merged=False), encoding="utf-8")


def card(subject: Subject, merged: bool) -> str:
    """The model card: recipe, data, licences, and the figures that the run and its evaluations measured."""
    if subject.config is None or subject.run is None:
        return f"---\npipeline_tag: text-generation\n---\n\n# {subject.source.base.name}\n\nThe licence of the base model applies.\n"
    text = saving.card(subject.config)
    text = text.replace("library_name: peft", "library_name: transformers") if merged else text
    result = subject.run.read_result()
    found = {
        k: result[k] for k in ("step", "epochs", "rows", "tokens", "loss", "eval_loss") if result.get(k) is not None
    }
    for path in sorted((subject.run.path / "evaluations").glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8")).get("figures", {})
        found |= {f"{path.stem}: {k}": v for k, v in figures.items() if isinstance(v, (int, float))}
    lines = "".join(f"| {name} | {value:g} |\n" for name, value in found.items())
    return text + (f"\n## Figures\n\n| measured | |\n|---|---|\n{lines}" if lines else "")


def verify(subject: Subject, place: Path, config: ExportConfig) -> None:
    """What was written against the run's model, each in a process of its own: whole, or layer by layer."""
    source, prompt = subject.source, subject.prompt
    streamed = is_streamed(source, config.verify)
    texts = [prompt.render(q, "", subject.tokenizer) for q in ASKED] if prompt is not None else list(ASKED)
    special = prompt is None or prompt.kind != "chat"
    ids = [subject.tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]
    spec = {
        "base": str(source.base), "adapter": str(source.adapter) if source.adapter else None, "rows": source.rows,
        "tokenizer": str(source.adapter or source.base), "texts": texts, "special": special, "ids": ids,
        "dtype": config.dtype, "format": config.format, "place": str(place),
        "probe": str(place.with_name(f"{place.name}.probe")), "streamed": streamed,
    }  # fmt: skip
    path = place.with_name(f"{place.name}.json")
    try:
        path.write_text(json.dumps(spec), encoding="utf-8")
        for step in ("reference", "written"):
            console.say(in_fresh_process(step, path))
    finally:
        path.unlink(missing_ok=True)
        Path(str(spec["probe"])).unlink(missing_ok=True)


def is_streamed(source: weights.Source, choice: str) -> bool:
    """Whether the check goes layer by layer; says why where that was left to be chosen."""
    import psutil

    from alpaca import model as base_model

    needed = 1.2 * 4 * base_model.shape(source.config).num_parameters()
    free = psutil.virtual_memory().available
    if choice == "auto" and needed > free:
        console.say(f"the model in float32 takes {needed / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free: checked layer by layer")  # fmt: skip
    return choice == "streamed" or choice == "auto" and needed > free


def in_fresh_process(step: str, spec: Path) -> str:
    """What alpaca.export_check said. Raises RuntimeError when it found a difference."""
    command = [sys.executable, "-m", "alpaca.export_check", step, str(spec.resolve())]
    root = Path(__file__).resolve().parent.parent
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    said = [line for line in (done.stdout.strip() or done.stderr.strip()).splitlines() if line.strip()]
    if done.returncode != 0:
        raise RuntimeError(
            f"what was written is not the run's model, and is removed: {said[-1] if said else 'no output'}"
        )
    return "\n".join(said)


def push(target: Path, repository: str) -> None:
    """Upload to a private repository of the hub. Raises UserError; what was written stays."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        if target.is_dir():
            api.upload_folder(repo_id=repository, folder_path=target)
        else:
            api.upload_file(repo_id=repository, path_or_fileobj=target, path_in_repo=target.name)
    except Exception as error:
        raise UserError(
            f"push={repository} failed ({first_line(error)}): {target} is written; check $HF_TOKEN, the name and the network"
        ) from None
    console.say(f"pushed to {repository}")
