"""infer.py's work: one answer, a conversation in the terminal, or a file of rows. Only answers go to stdout."""

import dataclasses
import hashlib
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alpaca import console, records
from alpaca.config import PromptConfig
from alpaca.errors import UserError
from alpaca.infer_config import PROMPTS, InferConfig
from alpaca.inference import Answer, Loaded, Sampling, load_run, load_weights
from alpaca.prompts import Prompt
from alpaca.results import RunFolder, newest_run, write_atomic
from alpaca.streams import Stream, Streams


def run(config: InferConfig) -> None:
    """Load the model and answer what is asked."""
    from transformers.utils import logging

    if config.temperature == 0 and (config.top_p < 1 or config.top_k > 0) and config.ui.name == "none":
        console.warn(
            "top_p and top_k do nothing while temperature=0 (greedy): give temperature=0.7 or so to draw tokens"
        )
    if config.run is None and config.model is None and not config.compare:
        run = newest_run(Path("outputs"))
        console.say(f"the newest finished run is {run.path}")
        config = dataclasses.replace(config, run=str(run.path))
    rows = read_rows(Path(config.batch.input)) if config.batch.input else []
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sampling = sampling_of(config)
    if config.ui.name == "gradio":
        from alpaca import ui

        with console.results_only_on_stdout():
            ui.run(config, sampling)
        return
    with console.results_only_on_stdout():
        loaded = load(config)
    if config.serve.name == "openai":
        from alpaca import serving

        serving.run(config, loaded, sampling)
    elif config.instruction is not None:
        answer = loaded.answer([{"instruction": config.instruction, "input": config.input}], sampling)[0]
        print(answer.text)
        if answer.stopped == "length":
            console.say(f"(cut at max_new_tokens={config.max_new_tokens})")
    elif config.interactive:
        converse(loaded, sampling)
    else:
        assert config.batch.output is not None
        answer_file(loaded, sampling, rows, Path(config.batch.output), config)


def sampling_of(config: InferConfig) -> Sampling:
    """The settings that choose tokens."""
    return Sampling(
        config.temperature,
        config.top_p,
        config.top_k,
        config.num_beams,
        config.max_new_tokens,
        config.repetition_penalty,
        tuple(config.stop),
        config.seed,
    )


def load(config: InferConfig) -> Loaded:
    """The weights that the config names."""
    prompt = named_prompt(config.prompt) if config.prompt else None
    if config.engine == "vllm":
        from alpaca import vllm_engine

        return vllm_engine.load(config, prompt)
    options = {"prompt": prompt, "device": config.device, "quantize": config.quantize}
    if config.run is not None:
        return load_run(RunFolder(config.run), merge=True, **options)  # type: ignore[arg-type]
    assert config.model is not None
    return load_weights(
        config.model,
        config.adapter,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        merge=True,
        **options,  # type: ignore[arg-type]
    )


def named_prompt(name: str) -> Prompt:
    """A prompt of conf/prompt/."""
    return Prompt.from_config(PromptConfig(**OmegaConf.to_container(OmegaConf.load(PROMPTS / f"{name}.yaml"))))  # type: ignore[arg-type]


def converse(loaded: Loaded, sampling: Sampling) -> None:
    """Read instructions from the terminal until an empty line or end of file; each stands alone."""
    streams = Streams(loaded, capacity=1)
    console.say("Type an instruction and Enter; an optional input after ||; an empty line or Ctrl-D ends.")
    for number in itertools.count():
        console.say()
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return
        instruction, _, given = line.strip().partition("||")
        drawn = dataclasses.replace(sampling, seed=sampling.seed + number)
        try:
            show(streams.ask(loaded.question(instruction.strip(), given.strip()), drawn))
        except UserError as error:
            console.say(f"error: {error}")


def show(stream: Stream) -> None:
    """Print an answer as it comes; Ctrl-C ends it."""
    shown = ""
    try:
        for text in stream:
            if text.startswith(shown):
                sys.stdout.write(text[len(shown) :])
                sys.stdout.flush()
                shown = text
        print(flush=True)
    except KeyboardInterrupt:
        stream.cancel()
        print(flush=True)
        console.say("(stopped)")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows with a non-empty `instruction`, of a JSON list, JSONL, CSV or Parquet. Raises UserError with file and line."""
    found: list[tuple[int | None, Any]]
    found = [*records.table(path)] if path.suffix.lower() in records.TABLES else _json_rows(path)
    for i, (line_number, row) in enumerate(found):
        where = f"{path}:{line_number}" if line_number else f"{path}, item {i + 1}"
        if not isinstance(row, dict) or not isinstance(row.get("instruction"), str) or not row["instruction"].strip():
            raise UserError(f"{where}: a row takes a text under `instruction` (and perhaps `input`)")
        if not isinstance(row.get("input") or "", str):
            raise UserError(f"{where}: `input` is no text")
    if not found:
        raise UserError(f"batch.input={path} holds no rows")
    return [row for _, row in found]


def _json_rows(path: Path) -> list[tuple[int | None, Any]]:
    """(line where there is one, value) of each row."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"batch.input={path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line} is not UTF-8: convert the file") from None
    found: list[tuple[int | None, Any]] = []
    if text.lstrip().startswith("["):
        try:
            found = [(None, row) for row in json.loads(text)]
        except ValueError as error:
            raise UserError(f"{path} is no JSON list: {error}") from None
    else:
        for number, line_text in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand inside a string
            if not line_text.strip():
                continue
            try:
                found.append((number, json.loads(line_text)))
            except ValueError as error:
                raise UserError(f"{path}:{number} is no JSON: {error}") from None
    return found


def answer_file(
    loaded: Loaded, sampling: Sampling, rows: list[dict[str, Any]], output: Path, config: InferConfig
) -> None:
    """Answer rows, many at once; what is done is on disk within a second, and a second call goes on from there."""
    from tqdm.auto import tqdm

    partial = output.with_name(output.name + ".partial")
    key = hashlib.sha256(
        repr(
            (
                config.run,
                config.model,
                config.adapter,
                config.quantize,
                config.engine,
                sampling,
                loaded.prompt,
                rows,
                weights_stamp(config),
            )  # fmt: skip
        ).encode()
    ).hexdigest()
    done = read_partial(partial, key)
    if done:
        console.say(f"going on from {partial}: {len(done)} of {len(rows)} rows are answered")
    waiting = [i for i in range(len(rows)) if i not in done]
    try:
        with partial.open("a", encoding="utf-8") as file, tqdm(total=len(rows), initial=len(done), unit="row") as bar:
            if not done:
                file.truncate(0)
                file.write(json.dumps({"key": key}) + "\n")
            start, tokens, saved = time.monotonic(), 0, time.monotonic()
            for i, answer in loaded.answers(rows, sampling, config.batch.size, waiting):
                done[i] = answer
                file.write(json.dumps([i, answer.text, answer.stopped, answer.tokens], ensure_ascii=False) + "\n")
                if time.monotonic() - saved > 1:  # what a crash can cost is a second's work
                    file.flush()
                    os.fsync(file.fileno())
                    saved = time.monotonic()
                tokens += answer.tokens
                bar.set_postfix_str(f"{tokens / (time.monotonic() - start):,.0f} tokens/s", refresh=False)
                bar.update()
    except OSError as error:
        raise UserError(
            f"batch.output={output} cannot be written ({error.strerror}): what is answered lies in {partial}"
        ) from None
    lines = (
        json.dumps(rows[i] | {"answer": done[i].text, "stopped": done[i].stopped}, ensure_ascii=False)
        for i in range(len(rows))
    )
    write_atomic(output, "".join(line + "\n" for line in lines))
    partial.unlink()
    console.say(f"{len(rows)} answers in {output}")


def weights_stamp(config: InferConfig) -> list[tuple[str, int, int]]:
    """Name, size and time of the weight files: answers of a model that was trained again are not mixed in."""
    folder = Path(config.run) / "model" if config.run else Path(config.adapter or config.model or "")
    return sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.glob("*.safetensors"))


def read_partial(path: Path, key: str) -> dict[int, Answer]:
    """Answers of an earlier call with the same rows and settings; a torn last line is dropped."""
    if not path.is_file():
        return {}
    result: dict[int, Answer] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if not lines or lines[0] != json.dumps({"key": key}):
        console.warn(f"{path} is of another call and is begun anew")
        return {}
    for line in lines[1:]:
        try:
            number, text, stopped, tokens = json.loads(line)
        except ValueError:
            break
        result[number] = Answer(text, stopped, tokens)
    good = [lines[0], *lines[1 : len(result) + 1]]
    write_atomic(path, "".join(line + "\n" for line in good))
    return result
