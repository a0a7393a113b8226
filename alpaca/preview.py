"""What a person should see before money is spent: the arithmetic, and the spans on which loss is taken."""

import sys
from typing import Any

from alpaca import console
from alpaca.batch import BatchPlan

ROWS = 3


def spans(dataset: Any, tokenizer: Any, rows: int = ROWS) -> None:
    """For a few rows the decoded text, with the part on which loss is taken between marks."""
    on, off = ("\033[1;32m", "\033[0m") if sys.stderr.isatty() else ("", "")
    console.say("\nLoss is taken on what stands between ⟦ and ⟧ (decoded from the labels):")
    for i in range(min(rows, len(dataset))):
        item = dataset[i]
        ids, labels = list(item["input_ids"]), list(item["labels"])
        text, start = "", 0
        for end in range(1, len(ids) + 1):
            if end < len(ids) and (labels[end] == -100) == (labels[start] == -100):
                continue
            piece = tokenizer.decode(ids[start:end], skip_special_tokens=False)
            text += piece if labels[start] == -100 else f"{on}⟦{piece}⟧{off}"
            start = end
        learned = sum(label != -100 for label in labels)
        console.say(f"--- row {item['row']}: {len(ids)} tokens, loss on {learned}\n{text}")
    console.say("---")


def arithmetic(plan: BatchPlan, report: Any, trainable: int, total: int, precision: str, packed: Any = None) -> None:
    """Rows, tokens, batches, steps and parameters; `packed`: the packed rows that batches count, if there are any."""
    console.say(
        f"model      {total:,} parameters, {trainable:,} trainable ({100 * trainable / total:.4f} %), precision {precision}\n"
        f"batch      {plan.global_size} {'packed rows' if packed else 'sequences'} a step = {plan.per_device} a device x {plan.accumulation} accumulated "
        f"x {plan.processes} process{'es' if plan.processes > 1 else ''}\n"
        f"steps      {plan.steps:,} = {plan.epochs:g} epochs x {plan.steps_per_epoch:,}"
    )
    if packed:
        examples = plan.global_size * len(packed.examples) / len(packed)
        console.say(
            f"packing    {packed}\n"
            f"           a step sees about {examples:,.0f} examples, in other batches than without packing: this changes "
            "the recipe"
        )
    if report is not None:
        console.say(
            f"data       {len(packed.examples) if packed else plan.rows:,} rows for training, {report.tokens:,} tokens in all, {report.response_tokens:,} of them "
            f"with loss, mean {report.mean:.0f}, longest {report.longest}"
        )
