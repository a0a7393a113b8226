"""python benchmarks/startup.py: how long the command line takes to answer, and a run to its first step.

`--cfg job` and `--help` run nothing; beside them stands a Hydra application of one setting, which is what importing
Hydra and composing cost at least; their runs take turns. `--python` names another interpreter of the same version, which
answers from this one's packages: how it was built matters much. The first step is seen in the run folder's
metrics.jsonl, from the command's start on: with rows that were never tokenised before (cold), and with the same rows
again (warm).
"""

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import record  # noqa: E402

SMALLEST = """\
import hydra


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    pass


main()
"""


def answered(words: list[str], folder: Path, python: str) -> float:
    """Seconds until the command, a script of `folder` and its arguments, has ended."""
    environment = os.environ | ({} if python == sys.executable else {"PYTHONPATH": sysconfig.get_path("purelib")})
    start = time.perf_counter()
    subprocess.run([python, *words], cwd=folder, capture_output=True, check=True, env=environment)
    return time.perf_counter() - start


def stepped(words: list[str], run: Path) -> float:
    """Seconds until the run has made a step; it is ended then."""
    command = [sys.executable, "train.py", f"hydra.run.dir={run}", "resume=none", *words]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    metrics = run / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        if process.poll() is not None:
            sys.exit(f"{' '.join(command)} made no step:\n{process.communicate()[1].decode()[-2000:]}")
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    process.kill()
    process.communicate()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=7, help="times each is run; the median counts")
    parser.add_argument("--python", help="another interpreter, to be measured beside this one")
    parser.add_argument("--more", nargs="*", default=[], help="overrides of the run that makes a step")
    record.option(parser)
    arguments = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.yaml").write_text("setting: 1\n")
        (Path(scratch) / "smallest.py").write_text(SMALLEST)
        asked = {
            "train.py --cfg job": (["train.py", "--cfg", "job"], ROOT, "0.4 s"),
            "train.py --help": (["train.py", "--help"], ROOT, "0.7 s"),
            "a Hydra application of one setting, --cfg job": (["smallest.py", "--cfg", "job"], Path(scratch), "–"),
        }
        pythons = [sys.executable, *([arguments.python] if arguments.python else [])]
        turns = [
            {(python, name): answered(*command, python) for python in pythons for name, (*command, _) in asked.items()}
            for _ in range(arguments.count)
        ]
        for python in pythons:
            by = "" if python == sys.executable else f", by {python}"
            for name, (*_, bar) in asked.items():
                spent = statistics.median(turn[python, name] for turn in turns)
                lines.append([f"{name}{by}", f"{spent:.2f} s", bar])
        for name in ("cold", "warm"):
            found = []
            for i in range(max(1, arguments.count // 2)):
                cache = f"data.cache={scratch}/{'cache' if name == 'warm' else f'cache{i}'}"
                if name == "warm" and not i:
                    stepped([cache, *arguments.more], Path(scratch) / "first")
                found.append(stepped([cache, *arguments.more], Path(scratch) / f"{name}{i}"))
            words = " ".join(["train.py", *arguments.more])
            lines.append([f"{words}, to its first step, {name}", f"{statistics.median(found):.2f} s", "–"])
    body = record.table(["command", "median", "aim"], lines)
    record.section("The command line", body, arguments.record, ("hydra-core", "torch", "transformers"))


if __name__ == "__main__":
    main()
