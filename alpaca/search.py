"""python -m alpaca.search SWEEP.yaml --count N [--folder DIR] [KEY=VALUE …]: a W&B sweep file on Optuna, without W&B.

The same parameters, fixed overrides, metric and Hyperband as `wandb agent` would use. The study is a SQLite file in DIR:
the same command again goes on after a kill, and run in several terminals at once it shares the work. Further overrides
come after the file's own. grid: every combination; random; bayes: TPE.
"""

import argparse
import contextlib
import ctypes
import fcntl
import itertools
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from alpaca import cli, console, multirun, summary, sweep_words
from alpaca.agent import TRAIN, hydra_value
from alpaca.errors import UserError
from alpaca.results import RunFolder

POLL = 0.5
"""Seconds between looks at a run's metrics."""
OVERRIDE = re.compile(r"[+~]*[\w./@-]+=")
"""What an override begins with, among the words of a sweep file's command."""


def read(path: Path) -> dict[str, Any]:
    """A sweep file. Raises UserError where it is none."""
    try:
        sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a sweep file, such as sweeps/lora.yaml"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(sweep, dict) or not isinstance(sweep.get("parameters"), dict):
        raise UserError(f"{path} has no parameters: a sweep file names method, metric and parameters")
    if "metric" not in sweep or "name" not in sweep["metric"]:
        raise UserError(f"{path} has no metric.name: it takes what runs log, eval_loss or loss")
    if sweep.get("method", "bayes") not in ("bayes", "random", "grid"):
        raise UserError(f"method={sweep['method']} in {path} is not known: it takes bayes, random or grid")
    return sweep


def distributions(parameters: dict[str, Any]) -> dict[str, Any]:
    """Optuna's distribution of each parameter that varies. Choices stand as Hydra writes them. Raises UserError."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, given in parameters.items():
        kind = given.get("distribution")
        if "values" in given:
            found[name] = CategoricalDistribution([hydra_value(v) for v in given["values"]])
        elif "value" in given or kind == "constant":
            continue
        elif "min" in given and "max" in given:
            low, high, step = given["min"], given["max"], given.get("q")
            whole = isinstance(low, int) and isinstance(high, int)
            if kind == "int_uniform" or (kind is None and whole):
                found[name] = IntDistribution(low, high)
            elif kind in (None, "uniform"):
                found[name] = FloatDistribution(low, high)
            elif kind == "q_uniform":
                found[name] = FloatDistribution(low, high, step=step or 1)
            elif kind == "log_uniform_values":
                found[name] = FloatDistribution(low, high, log=True)
            elif kind == "log_uniform":
                found[name] = FloatDistribution(math.exp(low), math.exp(high), log=True)
            else:
                raise UserError(
                    f"parameters.{name}.distribution={kind} is not offered here: use values, uniform, q_uniform, "
                    "int_uniform, log_uniform or log_uniform_values"
                )
        else:
            raise UserError(f"parameters.{name} has neither value, values, nor min and max")
    return found


def fixed(sweep: dict[str, Any], further: list[str]) -> list[str]:
    """The overrides that every run has: the command's, constant parameters, then `further`; W&B is left out."""
    words = [str(w) for w in sweep.get("command", []) if OVERRIDE.match(str(w))]
    words = [w for w in words if w != "tracker=wandb"]
    words += [f"{k}={hydra_value(v['value'])}" for k, v in sweep["parameters"].items() if "value" in v]
    return [*words, *further]


def ends_with_its_parent() -> None:
    """In a process just forked: SIGTERM, on which a training saves and ends, when the parent dies, also by SIGKILL."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Search:
    """One worker of a study."""

    def __init__(self, sweep: dict[str, Any], folder: Path, further: list[str], script: Path = TRAIN) -> None:
        """`folder`: where runs and study are, made when it is not there; `script`: what a run is."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.folder, self.script = sweep, folder, script
        self.space = distributions(sweep["parameters"])
        self.fixed = fixed(sweep, further)
        self.metric = sweep["metric"]["name"]
        folder.mkdir(parents=True, exist_ok=True)
        with self.turn():
            self.study = optuna.create_study(
                study_name="search",
                storage=f"sqlite:///{folder / 'search.db'}",
                direction=sweep["metric"].get("goal", "minimize"),
                sampler=self._sampler(optuna),
                pruner=self._pruner(optuna),
                load_if_exists=True,
            )

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Alone among the workers of this study while it holds; a killed worker holds nothing."""
        with (self.folder / ".turn").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _sampler(self, optuna: Any) -> Any:
        method = self.sweep.get("method", "bayes")
        return optuna.samplers.RandomSampler() if method != "bayes" else optuna.samplers.TPESampler()

    def _pruner(self, optuna: Any) -> Any:
        """W&B's Hyperband has one bracket: at min_iter x eta^k looks (or max_iter / eta^s to max_iter) the best 1/eta go on."""
        early = self.sweep.get("early_terminate")
        if not early:
            return optuna.pruners.NopPruner()
        if early.get("type") != "hyperband":
            raise UserError(f"early_terminate.type={early.get('type')} is not offered here: it takes hyperband")
        eta, first = int(early.get("eta", 3)), int(early.get("min_iter", 1))
        if "max_iter" in early:
            first = max(1, int(early["max_iter"] / eta ** int(early.get("s", 1))))
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=eta)

    def take_up(self) -> None:
        """Put the trials of killed workers in line again; they go on in their own run folders."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            name = trial.user_attrs.get("run")
            if name is None or not RunFolder(self.folder / f"{name}.worker").is_locked():
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params)
                console.say(f"{name or trial.number}: its worker died; it is run again")

    def lay_out_grid(self) -> int:
        """Put every combination in line that is not there yet; how many there are."""
        if any(not hasattr(d, "choices") for d in self.space.values()):
            raise UserError("method=grid takes values for every parameter, not min and max")
        points = [
            dict(zip(self.space, values, strict=True))
            for values in itertools.product(*(d.choices for d in self.space.values()))
        ]
        for point in points:
            self.study.enqueue_trial(point, skip_if_exists=True)
        return len(points)

    def left(self, count: int) -> int:
        """Trials to be started until there are `count` that ended or run."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        return count - sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING) for t in trials)

    def run(self, count: int) -> None:
        """Trials one after another until `count` of them are done, over all workers."""
        with self.turn():
            self.take_up()
            if self.sweep.get("method") == "grid":
                count = min(count, self.lay_out_grid())
        failures = 0
        while failures < 3:
            with self.turn():
                if self.left(count) <= 0:
                    return
                trial = self.study.ask(self.space)
                overrides = [f"{k}={hydra_value(v) if not isinstance(v, str) else v}" for k, v in trial.params.items()]
                name = sweep_words.job_name(trial.number, "--".join(o.replace("=", "-", 1) for o in overrides))
                holder = RunFolder(self.folder / f"{name}.worker")
                if holder.is_locked():  # another worker tries the same point
                    name = f"{name}-{trial.number}"
                    holder = RunFolder(self.folder / f"{name}.worker")
                holder.lock()
                trial.set_user_attr("run", name)
            try:
                failures = 0 if self.one(trial, self.folder / name, overrides) else failures + 1
            finally:
                holder.release()
                (holder.path / ".lock").unlink(missing_ok=True)
                holder.path.rmdir()
        console.say("three runs in a row failed: stopped")

    def one(self, trial: Any, folder: Path, overrides: list[str]) -> bool:
        """Run one trial; whether it ended as it should."""
        from optuna.trial import TrialState

        console.say(f"\n=== trial {trial.number}: {' '.join(overrides)}")
        multirun.write_job(folder, overrides, None)
        code, pruned = self.watch(trial, folder, overrides)
        values = self.values(folder)
        if pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif code == 0 and values:
            self.study.tell(trial, values[-1])
        else:
            self.study.tell(trial, state=TrialState.FAIL)
            if code == 0:
                console.say(
                    f"{folder.name} logged no {self.metric}: metric.name takes what runs log, eval_loss or loss"
                )
        return pruned or (code == 0 and bool(values))

    def values(self, folder: Path) -> list[float]:
        """The metric as logged so far."""
        return [m[self.metric] for m in RunFolder(folder).read_metrics() if self.metric in m]

    def watch(self, trial: Any, folder: Path, overrides: list[str]) -> tuple[int, bool]:
        """(exit code, whether the trial was stopped for being hopeless) of a training whose metric is reported as it comes."""
        if RunFolder(folder).is_locked():
            console.say(f"{folder.name}: what a killed worker left is saving; waiting for its end")
        while RunFolder(folder).is_locked():
            time.sleep(POLL)
        started = time.time()
        words = [*self.fixed, *overrides, f'hydra.run.dir="{folder}"']
        process = subprocess.Popen([sys.executable, str(self.script), *words], preexec_fn=ends_with_its_parent)
        reported, pruned = 0, False
        try:
            while process.poll() is None:
                time.sleep(POLL)
                values = self.values(folder)
                for step in range(reported, len(values)):
                    trial.report(values[step], step + 1)
                reported = max(reported, len(values))
                if not pruned and reported and trial.should_prune():
                    pruned = True
                    console.say(
                        f"trial {trial.number} is stopped: {self.metric} {values[-1]:.4f} after {reported} looks"
                    )
                    process.send_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            process.wait()
            raise
        multirun.note_death(folder, process.returncode, started)
        return process.returncode, pruned


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m alpaca.search", description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--count", type=int, required=True, help="runs in all, over all workers")
    parser.add_argument("--folder", type=Path, help="folder of the search; default searches/NAME")
    parser.add_argument("overrides", nargs="*", help="further overrides of every run")
    given = parser.parse_intermixed_args()
    sweep = read(given.sweep)
    folder = (given.folder or Path("searches") / str(sweep.get("name", given.sweep.stem))).absolute()
    search = Search(sweep, folder, given.overrides)
    code = 0
    try:
        search.run(given.count)
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(summary.conclude(folder, stopped_early=True) and (code or 1) or code)


if __name__ == "__main__":
    cli.with_errors(main)
