"""Our side of the ledger: each figure from the code that a training run itself goes through, none from a constant."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.evaluation import recipes
from alpaca.evaluation.config import AuditConfig, LedgerConfig
from alpaca.evaluation.published import MODELS

Values = Iterator[tuple[str, Any]]


def sizes() -> Values:
    """Parameters of the models and adapters, counted on the meta device as a dry run counts them."""
    for size, name in MODELS.items():
        yield f"parameters, LLaMA {size}", _count(f"model={name}")[1]
    yield "parameters, OPT-6.7B", _count("model=opt6.7b")[1]
    adapters = {
        "LLaMA-7B r8 on q, v": ["experiment=alpaca_lora_original"],
        "LLaMA-7B r16 on q, k, v, o": ["experiment=alpaca_lora_official"],
        "LLaMA-7B r64 on all linear": ["experiment=qlora_alpaca_7b"],
        "LLaMA-13B r8 on q, v": ["experiment=alpaca_lora_original", "model=llama13b"],
        "LLaMA-13B r64 on all linear": ["experiment=qlora_alpaca_13b"],
    }
    for what, overrides in adapters.items():
        trainable, total = _count(*overrides)
        yield f"LoRA parameters, {what}", trainable
        yield f"LoRA share in %, {what}", 100 * trainable / total


def _count(*overrides: str) -> tuple[int, int]:
    from alpaca import method, model

    config = recipes.composed("data=alpaca52k", "dry_run=true", *overrides)
    return method.count(method.apply(model.shape(model.architecture(config.model, prefer_yaml=True)), config.method))


def steps(path: str | None) -> Values:
    """Optimiser steps of each recipe, planned for the rows of the file, else for as many as conf/data/ declares."""
    from alpaca import preparing, rows

    counted = []
    if path is not None:
        given = recipes.pinned("stanford_alpaca_7b", f"data.path='{path}'", "data.verify=false")
        counted = [f"data.rows={len(rows.read(given.data).rows)}"]
    for name in recipes.RECIPES:
        config = recipes.pinned(name, "launch.processes=1", *counted)
        plan = preparing.plan_of(config, preparing.known_rows(config.data))
        yield f"optimiser steps, {name}", plan.steps
        if config.trainer.get("max_steps", -1) > 0:
            yield f"epochs of these, {name}", plan.epochs
        else:
            whole = int(plan.epochs) * (plan.rows // plan.global_size)
            yield f"optimiser steps, {name}, partial batches dropped", whole


def settings() -> Values:
    """Settings of conf/experiment/ that are not the published ones."""
    for name in recipes.RECIPES:
        found = recipes.differences(recipes.pinned(name), name)
        for d in found:
            console.say(f"experiment={name}: {d.aspect} is {d.here!r}, published {d.published!r}")
        yield f"settings of {name} that differ", len(found)


def data(path: str | None, seeds: str | None) -> Values:
    """Figures of the rows in a file, near-duplicates among 1.35 billion pairs included."""
    if path is None:
        return
    from alpaca.evaluation.data_audit import examine
    from alpaca.generation.requests import read_items

    console.say(f"reading {path} and comparing every pair of its instructions")
    items = read_items(Path(path))
    found = examine(items, AuditConfig())
    yield "Alpaca-52k, rows", found["rows"]
    yield "Alpaca-52k, unique instructions", found["unique_instructions"]
    yield "Alpaca-52k, rows with input", found["with_input"]
    yield "Alpaca-52k, rows with input in %", 100 * found["with_input"] / max(found["rows"], 1)
    yield "Alpaca-52k, empty outputs", found["empty_outputs"]
    yield "Alpaca-52k, pairs of instructions", found["pairs"]
    yield "Alpaca-52k, pairs with ROUGE-L F1 above 0.7", found["pairs_above_threshold"]
    if seeds is not None:
        from alpaca.generation.dedupe import Pool

        pool = Pool(AuditConfig().language, AuditConfig().threshold)
        for seed in read_items(Path(seeds)):
            pool.add(seed.instruction)
        yield "Alpaca-52k, pairs with the 175 seed tasks above 0.7", sum(len(pool.matches(i.instruction)) for i in items)  # fmt: skip


def tokens(path: str | None, config: LedgerConfig) -> Values:
    """Token ids and lengths as training prepares them, with the real tokenizers."""
    folders = {"LLaMA": (config.llama_tokenizer, "7b"), "OPT": (config.opt_tokenizer, "opt6.7b")}
    for label, (folder, name) in folders.items():
        if folder is None:
            continue
        from alpaca import data as training_data
        from alpaca import tokenizer as tokenizers
        from alpaca.encoding import Encoder
        from alpaca.prompts import Prompt

        tokenizer = tokenizers.load_tokenizer(folder)
        tokenizers.check_special_tokens(tokenizer)
        more = ["data.verify=false", f"model.tokenizer='{folder}'"] + ([f"data.path='{path}'"] if path else [])
        recipe = recipes.pinned(f"stanford_alpaca_{name}", *more)
        prompt = Prompt.from_config(recipe.prompt)
        yield (
            f"first ids of the prompt, {label} tokenizer",
            Encoder(tokenizer).ids([prompt.render("", "")]).values[:6].tolist(),
        )
        if path is not None:
            report = training_data.prepare(recipe, tokenizer, prompt).report
            yield f"mean tokens of an example, {label} tokenizer", report.mean
            yield f"share of response tokens, {label} tokenizer", report.response_tokens / report.tokens
