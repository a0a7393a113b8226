"""How each worker of a run ended, told by the worker itself in a file that the launcher reads. Knows no torch."""

import json
import os
import signal
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from alpaca import console
from alpaca.errors import Interrupted, UserError, WorkerFailed, first_line, is_write_error

FOLDER = "ALPACA_OUTCOMES"
"""Environment variable that names the folder of the files RANK.json."""
_LOST_PEER = ("connection closed", "connection reset", "connection refused", "broken pipe", "gloo", "nccl", "timed out")


@dataclass
class Outcome:
    """`lost_peer`: the error came from another worker's end, so that the cause is to be sought there."""

    rank: int
    local_rank: int
    status: str
    time: float
    error: str = ""
    kind: str = "fault"
    """user: an error for the user, told in a line; fault: one of the program, with its traceback."""
    lost_peer: bool = False
    trace: str = ""


def tell(status: str, error: BaseException | None = None) -> None:
    """Write this worker's outcome, where a launcher asked for it."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    rank = int(os.environ["RANK"])
    outcome = Outcome(rank, int(os.environ["LOCAL_RANK"]), status, time.time())
    if error is not None:
        outcome.error = str(error) or type(error).__name__
        if isinstance(error, UserError):
            outcome.kind = "user"
        elif not isinstance(error, Interrupted):
            outcome.error = f"{type(error).__name__}: {first_line(error)}"
            outcome.lost_peer = lost_peer(error)
            outcome.trace = "".join(traceback.format_exception(error))
    beside = Path(folder) / f".{rank}"
    try:
        beside.write_text(json.dumps(asdict(outcome)))
        beside.rename(Path(folder) / f"{rank}.json")
    except OSError:  # the launcher is gone; nobody reads it
        pass


def lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another worker is gone."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and not is_write_error(error) and any(w in text for w in _LOST_PEER)


def read(folder: Path) -> dict[int, Outcome]:
    """Rank -> outcome, for the workers that wrote one."""
    found = [Outcome(**json.loads(p.read_text())) for p in sorted(folder.glob("*.json"))]
    return {outcome.rank: outcome for outcome in found}


def raise_first(found: dict[int, Outcome], exit_codes: dict[int, int]) -> None:
    """Raise the error of the worker that failed first. `exit_codes`: local rank -> code of the workers that failed.

    A worker that went without a word (killed, crashed) comes before those that only say that a peer is gone.
    """
    failed = sorted((o for o in found.values() if o.status == "failed"), key=lambda o: o.time)
    own = [o for o in failed if not o.lost_peer]
    told = {o.local_rank for o in found.values()}
    silent = {rank: code for rank, code in sorted(exit_codes.items()) if rank not in told}
    if own:
        _raise(own[0])
    if silent:
        # workers killed by the launcher after the first failure come last
        rank, code = min(silent.items(), key=lambda item: (item[1] == -signal.SIGKILL and len(silent) > 1, item[0]))
        raise WorkerFailed(f"worker {rank} {_how(code)}; the run is stopped")
    if failed:
        _raise(failed[0])
    if exit_codes:
        rank, code = min(exit_codes.items())
        raise WorkerFailed(f"worker {rank} {_how(code)}; the run is stopped")


def _raise(outcome: Outcome) -> None:
    if outcome.kind == "user":
        raise UserError(outcome.error)
    console.say(f"worker {outcome.rank} failed first:\n{outcome.trace}")
    raise WorkerFailed(f"worker {outcome.rank} failed: {outcome.error}")


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} without saying why"
    name = signal.Signals(-code).name
    hint = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
