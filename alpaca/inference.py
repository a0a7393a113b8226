"""A run folder, or weights from a folder or a hub, to text. Knows no trainer and no UI."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from alpaca import console, method, precision
from alpaca import model as base_model
from alpaca import tokenizer as tokenizers
from alpaca.config import ModelConfig, TrainConfig
from alpaca.config import load as load_config
from alpaca.errors import UserError
from alpaca.prompts import Prompt
from alpaca.results import RunFolder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    max_new_tokens: int = 256
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A text, why it ended (eos, stop or length) and how many tokens were generated."""

    text: str
    stopped: str
    tokens: int


@dataclass
class Loaded:
    """Weights ready to answer, with the prompt they were tuned with."""

    model: Any
    tokenizer: Any
    prompt: Prompt
    precision: str

    def answer(self, rows: Sequence[dict[str, str]], sampling: Sampling, streamer: Any = None) -> list[Answer]:
        """Answers to rows of `instruction` and `input`, as one batch (padded on the left)."""
        import torch

        texts = [self.prompt.render(r["instruction"], r.get("input") or "", self.tokenizer) for r in rows]
        self.tokenizer.padding_side = "left"
        encoded = self.tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=self.prompt.kind != "chat"
        )
        encoded.pop("token_type_ids", None)
        width = encoded["input_ids"].shape[1]
        settings = self._settings(sampling, width)
        device = next(self.model.parameters()).device
        with torch.no_grad():
            output = self.model.generate(**encoded.to(device), **settings, tokenizer=self.tokenizer, streamer=streamer)
        return [self._read(encoded["input_ids"][i], output[i, width:], sampling) for i in range(len(rows))]

    def _settings(self, sampling: Sampling, width: int) -> dict[str, Any]:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and width >= limit:
            raise UserError(f"the question has {width} tokens with its prompt, and the model takes {limit}: shorten it")
        new = sampling.max_new_tokens if limit is None else min(sampling.max_new_tokens, limit - width)
        settings: dict[str, Any] = {
            "max_new_tokens": new,
            "num_beams": sampling.num_beams,
            "repetition_penalty": sampling.repetition_penalty,
            "do_sample": sampling.temperature > 0,
            "pad_token_id": self.tokenizer.pad_token_id,
            "eos_token_id": sorted(self.ends()),
        }
        if sampling.temperature > 0:
            settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        if stops := [*self.prompt.stop, *sampling.stop]:
            settings["stop_strings"] = stops
        return settings

    def ends(self) -> set[int]:
        """Ids of the tokens that end an answer."""
        named = self.model.generation_config.eos_token_id
        return {
            self.tokenizer.eos_token_id,
            *(named if isinstance(named, list) else [named] if named is not None else []),
        }

    def _read(self, question: "torch.Tensor", generated: "torch.Tensor", sampling: Sampling) -> Answer:
        """The generated ids as text: decoded after the question, since a first space may belong to the joint."""
        ids = generated.tolist()
        end = next((i for i, t in enumerate(ids) if t in self.ends()), None)
        kept = ids[:end]
        before = self.tokenizer.decode(question, skip_special_tokens=True)
        whole = self.tokenizer.decode([*question.tolist(), *kept], skip_special_tokens=True)
        text = (
            whole[len(before) :] if whole.startswith(before) else self.tokenizer.decode(kept, skip_special_tokens=True)
        )
        cuts = [i for s in (*self.prompt.stop, *sampling.stop) if (i := text.find(s)) >= 0]
        stopped = "stop" if cuts else "eos" if end is not None else "length"
        return Answer(self.prompt.cut(text[: min(cuts)] if cuts else text), stopped, len(kept) + (end is not None))


def load_run(
    run: RunFolder, *, training_precision: bool = False, prompt: Prompt | None = None, device: str = "auto"
) -> Loaded:
    """The model of a finished run. `training_precision` keeps the dtypes of training (to compare logits)."""
    if not run.path.is_dir():
        raise UserError(f"run={run.path} is not a folder: it takes the run folder that train.py printed")
    if not run.config.is_file():
        raise UserError(
            f"run={run.path} has no config.yaml: it takes the run folder that train.py printed (weights go into model=)"
        )
    try:
        config = load_config(OmegaConf.to_container(OmegaConf.load(run.config), resolve=True))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{run.config} is damaged ({str(error).splitlines()[0]}): give the weights, model={run.model}"
        ) from None
    if not run.model.is_dir():
        status = run.read_result().get("status", "not finished")
        raise UserError(f"run={run.path} has no model/ yet ({status}): run its training again to go on")
    choice = precision.choose(config)
    tokenizer = tokenizers.load_tokenizer(str(run.model))
    tokenizers.check_special_tokens(tokenizer)
    dtype = choice.weights if training_precision else choice.compute
    if config.method.train == "lora":
        model = _with_adapter(
            run_base(config, run),
            run.model,
            tokenizer,
            dtype,
            device,
            method.quantization(config.method, choice.compute),
        )
    else:
        model = base_model.load(
            ModelConfig("run", path=str(run.model), trust_remote_code=config.model.trust_remote_code), dtype
        )
        model = place(model, device)
    return Loaded(model.eval(), tokenizer, prompt or Prompt.load(run.model), choice.name)


def run_base(config: TrainConfig, run: RunFolder) -> ModelConfig:
    """Where the base of a run's adapter lies."""
    import dataclasses

    return config.model if config.model.path is not None else dataclasses.replace(config.model, path=str(run.base))


def load_weights(
    path: str,
    adapter: str | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    prompt: Prompt | None = None,
    device: str = "auto",
) -> Loaded:
    """Weights straight from a folder or a hub, with an adapter or without."""
    import torch

    if Path(path, "metrics.jsonl").is_file() and not Path(path, "config.json").is_file():
        raise UserError(f"model={path} is a run folder: give it as run={path}")
    source = ModelConfig("infer", path=path, revision=revision, trust_remote_code=trust_remote_code)
    if not Path(path).is_dir():
        base_model.architecture(source)
    tokens_from = adapter if adapter and Path(adapter, "tokenizer_config.json").is_file() else path
    tokenizer = tokenizers.load_tokenizer(tokens_from, trust_remote_code=trust_remote_code)
    for notice in tokenizers.check_special_tokens(tokenizer):
        console.say(f"notice: {notice}")
    cuda = torch.cuda.is_available() and device != "cpu"
    dtype = torch.float32 if not cuda else torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if prompt is None:
        saved = [Path(p) for p in (adapter, path) if p and Path(p, "prompt.json").is_file()]
        if not saved:
            raise UserError(
                f"{adapter or path} carries no prompt: name the one it was tuned with, prompt=alpaca|chat|…"
            )
        prompt = Prompt.load(saved[0])
    if adapter:
        model = _with_adapter(source, Path(adapter), tokenizer, dtype, device)
    else:
        model = place(base_model.load(source, dtype), device)
        base_model.fit_vocabulary(model, tokenizer)
    name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return Loaded(model.eval(), tokenizer, prompt, name)


def _with_adapter(
    source: ModelConfig, adapter: Path, tokenizer: Any, dtype: Any, device: str, quantization: Any = None
) -> Any:
    import torch
    from peft import PeftModel, prepare_model_for_kbit_training

    if not (adapter / "adapter_config.json").is_file():
        raise UserError(f"adapter={adapter} has no adapter_config.json: it takes a folder that PEFT saved")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise UserError(
            f"adapter={adapter} has no adapter_model.safetensors: copy it again (pickled adapters are not opened)"
        )
    device_map = {"": 0} if quantization is not None and torch.cuda.is_available() and device != "cpu" else None
    model = base_model.load(source, dtype, quantization=quantization, device_map=device_map)
    base_model.fit_vocabulary(model, tokenizer)
    if quantization is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    else:
        model = place(model, device)
    try:
        return PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:
        raise UserError(
            f"the adapter in {adapter} does not load on {source.path}: {str(error).splitlines()[0][:200]}"
        ) from error


def place(model: Any, device: str) -> Any:
    """On the GPU where there is one and it is wanted."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but there is no CUDA device here: use device=auto or cpu")
    return model.to("cuda") if torch.cuda.is_available() and device != "cpu" else model
