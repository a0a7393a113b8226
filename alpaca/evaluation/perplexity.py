"""task=perplexity: exp of the mean loss over the tokens of held-out responses, as training takes it."""

import json
import math
from pathlib import Path
from typing import Any

from alpaca import answering, console
from alpaca.errors import UserError
from alpaca.evaluation import outcome, subject
from alpaca.evaluation.config import EvaluateConfig
from alpaca.page import Page


def perplexity(config: EvaluateConfig, run_dir: Path) -> None:
    """Print the figures as JSON; a page lies in `run_dir`."""
    asked = subject.rows(config)
    with console.results_only_on_stdout():
        loaded = answering.load(subject.infer_config(config))
    losses = [row_loss(loaded, row) for row in _progress(asked)]
    tokens = sum(n for _, n in losses)
    if not tokens:
        raise UserError("no row has a response to take loss on: check data.path")
    loss = sum(total for total, _ in losses) / tokens
    if not math.isfinite(loss):
        raise UserError(f"the loss is not finite ({loss}): the weights are broken, or prompt and model do not fit")
    figures = {"rows": len(asked), "tokens": tokens, "loss": loss, "perplexity": math.exp(loss)}
    page = Page(f"Perplexity: {config.run or config.model}")
    page.table(list(figures.items()))
    page.text("Mean cross-entropy in nats over the tokens of each response and its EOS; prompts carry no loss.")
    outcome.write(run_dir, "perplexity", subject.settings(config), figures, page)
    print(json.dumps(figures))
    outcome.done(run_dir, f"perplexity {figures['perplexity']:.4f} over {tokens:,} tokens")


def _progress(rows: list[Any]) -> Any:
    from tqdm.auto import tqdm

    return tqdm(rows, unit="row", disable=None, leave=False)


def row_loss(loaded: Any, row: dict[str, str]) -> tuple[float, int]:
    """(summed cross-entropy in nats, tokens) of a row's response and EOS, cut where the model's positions end."""
    import torch
    from torch.nn import functional

    source, target = loaded.prompt.render_pair(row, loaded.tokenizer)
    prompt, ids = loaded.encode(source), loaded.encode(source + target)
    if loaded.prompt.kind != "chat" or loaded.tokenizer.eos_token_id not in ids[len(prompt) :]:
        ids = [*ids, loaded.tokenizer.eos_token_id]
    ids = ids[: loaded.longest]
    start = max(len(prompt), 1)
    if len(ids) <= start:
        return 0.0, 0
    tensor = torch.tensor([ids], device=next(loaded.model.parameters()).device)
    with torch.no_grad():
        logits = loaded.model(input_ids=tensor, use_cache=False).logits[0, start - 1 : -1].float()
    return float(functional.cross_entropy(logits, tensor[0, start:], reduction="sum")), len(ids) - start
