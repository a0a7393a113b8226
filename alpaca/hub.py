"""A data set of the Hugging Face hub, or its copy in the local cache, as records. Knows nothing of rows."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alpaca.errors import UserError
from alpaca.records import SUFFIXES, Records

NETWORK_SECONDS = 10
"""How long the hub may take to answer at all."""


def load(name: str, split: str) -> Records:
    """A data set of the hub, or its copy in the local cache. Raises UserError in one line; never hangs."""
    advice = f"give a local copy, data.path=FILE ({', '.join(SUFFIXES)})"
    try:
        import datasets

        with _offline(datasets, when=not _answers()):
            table = datasets.load_dataset(name, split=split)
        items = table.to_list()
        columns = list(table.column_names)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"data.path={name} is no file or folder here, and cannot be had from the hub ({reason}): {advice}"
        ) from None
    return Records(Path(name), items, lambda position: position + 1, columns=columns, unit="row")


def _answers() -> bool:
    """Whether the hub answers within NETWORK_SECONDS; look-ups of names can hang longer than any socket timeout."""
    import urllib.error
    import urllib.request

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    result: list[bool] = []

    def probe() -> None:
        try:
            address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=NETWORK_SECONDS).close()
            result.append(True)
        except urllib.error.HTTPError:
            result.append(True)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    return bool(result)


@contextmanager
def _offline(datasets: Any, when: bool) -> Iterator[None]:
    """With no network, let the libraries use their local copies without waiting for time-outs."""
    import huggingface_hub.constants as hub

    before = (hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    if when:
        hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
