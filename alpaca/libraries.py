"""The heavy libraries, read without the compiler that one of them brings along, which few runs use.

transformers' trainer reads PEFT, and that bitsandbytes, which has functions compiled as it is read: for that torch reads
all of its compiler. Here they are compiled when they are first called. Knows nothing of this project.
"""

import functools
import gc
import importlib
import sys
from collections.abc import Callable
from typing import Any


def read(*names: str) -> None:
    """Import modules of libraries, unless they are here."""
    if all(name in sys.modules for name in names):
        return
    import torch

    collects, compiler = gc.isenabled(), torch.compile
    no_model_yet = "transformers.modeling_utils" not in sys.modules
    gc.disable()  # what a library makes as it is read stays
    torch.compile = functools.partial(when_called, compiler)
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        torch.compile = compiler
        if no_model_yet:
            gc.freeze()  # and is not searched again: at the end of a process that alone took two seconds
        if collects:
            gc.enable()


def when_called(compiler: Callable[..., Any], function: Any = None, **options: Any) -> Any:
    """As the decorator `torch.compile`, but the compiler is read when the function is first called."""
    if function is None:
        return functools.partial(when_called, compiler, **options)
    compiled = functools.cache(lambda: compiler(function, **options))

    @functools.wraps(function)
    def call(*positional: Any, **keywords: Any) -> Any:
        return compiled()(*positional, **keywords)

    return call
