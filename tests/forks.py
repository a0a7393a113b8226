"""Commands in processes that are forked from one that has read the libraries: a start costs milliseconds, not seconds.

Each is a process of its own, with its arguments, folder, environment, streams and exit code, and takes signals. What
depends on how Python starts, or on what a library finds in the environment as it is read, wants a fresh interpreter.

A forked command takes `stand_in.py` for its interpreter, so that what it starts of this project is forked as well.

python -m tests.forks SOCKET is the process they are forked from. On a connection it reads a request in a line of JSON,
with three streams, answers with the pid, and at the end with the exit code. Whoever hangs up before ends the process.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = Path(__file__).with_name("stand_in.py")
SHELL = """#!/bin/sh
'''exec' "{}" -IS "$0" "$@"
' '''
"""
"""Starts what stands below in Python, which takes this for a string: the path may hold a space."""
LIBRARIES = [
    "alpaca",  # settings of the arithmetic, which must stand before torch is read
    "hydra.main",
    "openai",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "transformers.models.opt.modeling_opt",
    "peft",
    "deepspeed",  # which accelerate reads as it takes a model out of its wrappings
    "matplotlib.pyplot",
    "hydra._internal.hydra",
    "hydra.plugins.sweeper",
    "omegaconf.grammar_parser",
]
"""None of this project's own modules: a command reads them anew, as from a shell."""
SETTINGS = {"OMP_NUM_THREADS", "PYTHONPATH"}
"""Of what Python and the libraries read once, as they start, these are set again in a fork."""
_address: Path | None = None


class Forked:
    """A running `python WORDS` (a script, -m MODULE or -c CODE, and its arguments), with what tests use of `subprocess.Popen`."""

    def __init__(self, words: list[str], cwd: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="alpaca-forked-"))
        self._link = socket.socket(socket.AF_UNIX)
        self._link.connect(str(_server()))
        request: dict[str, Any] = {"words": words, "cwd": str(cwd), "parent": os.getpid()}
        request["environment"] = dict(os.environ if environment is None else environment)
        with contextlib.ExitStack() as streams:
            names = (Path(os.devnull), self._folder / "stdout", self._folder / "stderr")
            opened = [streams.enter_context(name.open("ab+")) for name in names]
            socket.send_fds(self._link, [json.dumps(request).encode() + b"\n"], [f.fileno() for f in opened])
        self._answers = self._link.makefile("rb", buffering=0)
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return (self._folder / "stderr").read_text(encoding="utf-8")

    def poll(self) -> int | None:
        return self._ended(0)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._link.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a forked command", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait; (stdout, stderr)."""
        self.wait(timeout)
        out, err = ((self._folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        shutil.rmtree(self._folder)
        return out, err


def run(
    words: list[str], cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = 500
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, or kill it after `timeout` seconds."""
    process = Forked(words, cwd, environment)
    try:
        said = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(words, process.wait(), *said)


def _server() -> Path:
    """Where the process listens that this test session forks from; it is started when it is first needed."""
    global _address
    if _address is None:
        folder = Path(tempfile.mkdtemp(prefix="alpaca-forks-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        command = [sys.executable, "-m", "tests.forks", str(folder / "socket")]
        server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)  # it ends when its stdin does
        while not (folder / "ready").exists():
            assert server.poll() is None, "the process to fork from did not start"
            select.select([], [], [], 0.02)
        stand_in = folder / "python"
        stand_in.write_text(SHELL.format(sys.executable) + STAND_IN.read_text(encoding="utf-8"), encoding="utf-8")
        stand_in.chmod(0o755)
        _address = folder / "socket"
    return _address


def serve(address: Path) -> list[str]:
    """Fork for every request; returns only in the forks, with the words of their commands."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    (address.parent / "ready").touch()
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)  # whoever started this is gone
        link = listener.accept()[0]
        if os.fork() == 0:
            break
        link.close()
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams = receive(link)
    pid = os.fork()
    if pid != 0:
        for number in streams:
            os.close(number)
        watch(pid, link, request["parent"])
    link.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    begin(request, address)
    return request["words"]


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request and its streams."""
    text, streams, _, _ = socket.recv_fds(link, 65536, 3)
    while not text.endswith(b"\n"):
        text += link.recv(65536)
    return json.loads(text), streams


def watch(pid: int, link: socket.socket, parent: int) -> NoReturn:
    """Wait for a command and tell how it ended; kill it where what stands for it is gone.

    This is its parent for the kernel, so it ends when the process that started the command does: that kills a command
    which asked for it (PR_SET_PDEATHSIG), and no other.
    """
    link.sendall(f"{pid}\n".encode())
    ended = os.pidfd_open(pid)
    try:
        over = select.select([link, ended, os.pidfd_open(parent)], [], [])[0]
    except ProcessLookupError:
        os._exit(0)
    if not {link, ended} & set(over):
        os._exit(0)
    if ended not in over:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(BrokenPipeError):
        link.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
    os._exit(0)


def begin(request: dict[str, Any], address: Path) -> None:
    """Make this process what a fresh one would be that was started so."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    real, watcher = os.getppid, os.getppid()
    os.getppid = lambda: request["parent"] if real() == watcher else 1
    sys.executable = str(address.parent / "python")
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if "OMP_NUM_THREADS" in os.environ:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


if __name__ == "__main__":
    words = serve(Path(sys.argv[1]))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
