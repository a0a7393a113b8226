"""Answers by vLLM, where it is installed: the same questions, prompt and cuts, with its own batching and kernels.

vLLM pins a torch of its own, so it goes into a virtual environment of its own, beside this project's other requirements.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alpaca import console
from alpaca import tokenizer as tokenizers
from alpaca.config import load as load_config
from alpaca.decoding import Sampling
from alpaca.errors import UserError, first_line
from alpaca.infer_config import InferConfig
from alpaca.inference import run_base
from alpaca.loaded import Answer, Loaded
from alpaca.prompts import Prompt
from alpaca.results import RunFolder
from alpaca.wording import Wording


def load(config: InferConfig, prompt: Prompt | None) -> Loaded:
    """The weights that the config names, in vLLM. Raises UserError where it is not installed or does not start."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "engine=vllm, but vLLM is not installed here: leave engine=transformers, or set up a virtual environment "
            "with vllm (it needs a GPU and a torch of its own)"
        )
    weights, adapter = sources(config)
    import json

    try:
        import vllm
        from vllm.lora.request import LoRARequest
    except Exception as error:  # built for another torch or CUDA, most often
        raise UserError(f"vLLM is installed here, but does not import ({first_line(error)}): use engine=transformers") from error  # fmt: skip

    options: dict[str, Any] = {"model": weights, "trust_remote_code": config.trust_remote_code}
    request = None
    if adapter is not None:
        rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
        options |= {"enable_lora": True, "max_lora_rank": max(8, 1 << (rank - 1).bit_length())}
        request = LoRARequest("adapter", 1, str(adapter))
    try:
        engine = vllm.LLM(**options)
    except Exception as error:
        raise UserError(f"vLLM does not take {weights} ({first_line(error)}): use engine=transformers") from error
    folder = adapter or Path(weights)
    tokenizer = tokenizers.load_tokenizer(str(folder), trust_remote_code=config.trust_remote_code)
    return VllmLoaded(engine, tokenizer, prompt or Prompt.load(folder), "vllm", request)


def sources(config: InferConfig) -> tuple[str, Path | None]:
    """Weights and adapter of a run folder, or as they were given."""
    if config.run is None:
        assert config.model is not None
        return config.model, Path(config.adapter) if config.adapter else None
    run = RunFolder(config.run)
    if not run.config.is_file() or not run.model.is_dir():
        raise UserError(f"run={run.path} holds no finished training: it takes the run folder that train.py printed")
    trained = load_config(OmegaConf.to_container(OmegaConf.load(run.config), resolve=True))
    if trained.method.train != "lora":
        return str(run.model), None
    return str(run_base(trained, run).path), run.model


class VllmLoaded(Loaded):
    """`model` is vLLM's engine."""

    def __init__(self, model: Any, tokenizer: Any, prompt: Prompt, precision: str, adapter: Any) -> None:
        super().__init__(model, tokenizer, prompt, precision)
        self.adapter = adapter

    @property
    def longest(self) -> int | None:
        """Most tokens of question and answer together."""
        return self.model.llm_engine.model_config.max_model_len

    def answer_ids(
        self, questions: dict[int, list[int]], sampling: Sampling, size: int
    ) -> Iterator[tuple[int, Answer]]:
        """As in the base class; `size` is left to vLLM."""
        import vllm

        settings = []
        for i, question in questions.items():
            settings.append(
                vllm.SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k or -1,
                    repetition_penalty=sampling.repetition_penalty,
                    max_tokens=self.room(question, sampling),
                    stop=[*self.prompt.stop, *sampling.stop] or None,
                    seed=sampling.seed + i,
                )
            )
        console.say(f"{len(questions)} questions to vLLM")
        asked = [{"prompt_token_ids": q} for q in questions.values()]
        outputs = self.model.generate(asked, settings, lora_request=self.adapter)
        for (i, question), output in zip(questions.items(), outputs, strict=True):
            best = output.outputs[0]
            ids = list(best.token_ids)
            ended = ids and ids[-1] == self.tokenizer.eos_token_id
            text, stopped = Wording(self.tokenizer, self.prompt, question, sampling.stop).whole(
                ids[:-1] if ended else ids
            )
            yield (
                i,
                Answer(text, "stop" if stopped else "length" if best.finish_reason == "length" else "eos", len(ids)),
            )
