"""The tasks by name: TASK is the function TASK of the module TASK, loaded when it is asked for."""

import importlib
from pathlib import Path

from alpaca.evaluation.config import EvaluateConfig

ELSEWHERE = {"data_audit": "data_audit.audit", "paper": "ledger.paper", "recipe_diff": "recipes.recipe_diff"}


def run(config: EvaluateConfig, run_dir: Path) -> None:
    """Do the task; a judge needs no torch unless a model is to answer."""
    module, _, function = ELSEWHERE.get(config.task, f"{config.task}.{config.task}").rpartition(".")
    getattr(importlib.import_module(f"alpaca.evaluation.{module}"), function)(config, run_dir)
