"""What a start and an end cost: torch's compiler is read by who calls it, and what is read is not searched for garbage."""

import json
from pathlib import Path
from typing import Any

from alpaca import libraries
from tests import processes as runs
from tests.commands import run_python

START = """
import gc, json, sys
from pathlib import Path
from alpaca.launch import launch
from tests.commands import compose

launch(compose(*json.loads(sys.argv[1])), Path(sys.argv[2]))
import torch
print("torch._inductor.compile_fx" in sys.modules, torch.compile.__module__)
print(len(gc.get_objects()) < gc.get_freeze_count())
"""


def test_a_run_does_not_read_the_compiler_nor_search_the_libraries_as_it_ends(tmp_path: Path) -> None:
    words = [*runs.LLAMA, "trainer.max_steps=1", "launch.processes=1", f"data.cache={tmp_path / 'cache'}"]
    words += ["rehearse_save=false", "trainer.save_strategy=no", "data.validation=null"]
    done = run_python("-c", START, json.dumps(words), str(tmp_path / "run"), HF_HUB_OFFLINE="1")
    assert done.stdout.splitlines() == ["False torch", "True"]


def test_a_function_is_compiled_when_it_is_called_and_once() -> None:
    asked: list[dict[str, Any]] = []

    def compiler(function: Any, **options: Any) -> Any:
        asked.append(options)
        return lambda x: function(x) + 100

    double = libraries.when_called(compiler, dynamic=False)(lambda x: 2 * x)
    assert asked == []
    assert [double(1), double(2)] == [102, 104] and asked == [{"dynamic": False}]
