"""A yes of all processes, asked so that one that says no alone does not wait for ever. Knows no model.

A process that an exception threw out of the model may be the only one: the others stand in the model's own collectives
and wait for it there. So votes are cast at the store where the processes met, where one can wait for a limited time.
"""

import itertools
import os
import time
from collections.abc import Callable

from alpaca import devices

ALONE = 120.0
"""Seconds after which a process that says no takes it that the others are not coming."""
STOPPED = 5.0
"""Seconds that are left for it once the run was asked to stop."""
_numbers = itertools.count()


class Alone(Exception):
    """The others did not come to the vote."""


class Vote:
    """Made and asked by every process alike, in the same order.

    seconds: how long a process that says yes waits for the others; stopped: whether the run was asked to stop, which a
    process that waits inside a collective never looks at.
    """

    def __init__(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self.seconds, self.stopped = seconds, stopped
        self.store = devices.store() if devices.world_size() > 1 else None
        devices.barrier()

    def __call__(self, yes: bool) -> bool:
        """Whether every process says yes. Raises Alone."""
        if self.store is None:
            return yes
        name = f"alpaca/vote/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_numbers)}"
        self.store.add(f"{name}/no", int(not yes))
        came = self.store.add(f"{name}/came", 1)
        until = time.monotonic() + (self.seconds if yes else min(self.seconds, ALONE))
        while came < devices.world_size():
            if self.stopped():
                until = min(until, time.monotonic() + STOPPED)
            if time.monotonic() > until:
                raise Alone
            time.sleep(0.01)
            came = self.store.add(f"{name}/came", 0)
        return self.store.add(f"{name}/no", 0) == 0
