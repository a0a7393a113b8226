"""The tasks by name."""

from collections.abc import Callable
from pathlib import Path

from alpaca.evaluation.config import EvaluateConfig
from alpaca.evaluation.data_audit import audit
from alpaca.evaluation.instructions import instructions
from alpaca.evaluation.ledger import paper
from alpaca.evaluation.mmlu import mmlu
from alpaca.evaluation.perplexity import perplexity
from alpaca.evaluation.recipes import recipe_diff

TASKS: dict[str, Callable[[EvaluateConfig, Path], None]] = {
    "data_audit": audit,
    "paper": paper,
    "recipe_diff": recipe_diff,
    "instructions": instructions,
    "perplexity": perplexity,
    "mmlu": mmlu,
}
