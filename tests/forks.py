"""Commands in processes that are forked from one that has read the libraries: a start costs milliseconds, not seconds.

Each is a process of its own, with its arguments, folder, environment, streams and exit code, and takes signals. What
depends on how Python starts, or on what a library finds in the environment as it is read, wants a fresh interpreter.

python -m tests.forks SOCKET is the process they are forked from. On a connection it reads a request in a line of JSON,
answers with the pid, and at the end with the exit code.
"""

import atexit
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

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = [
    "alpaca",  # settings of the arithmetic, which must stand before torch is read
    "hydra.main",
    "openai",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "transformers.models.opt.modeling_opt",
    "peft",
    "matplotlib.pyplot",
]
"""None of this project's own modules: a command reads them anew, as from a shell."""
_address: Path | None = None


class Forked:
    """A running `python WORDS` (a script or -m MODULE, and its arguments), with what tests use of `subprocess.Popen`."""

    def __init__(self, words: list[str], cwd: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="alpaca-forked-"))
        self._link = socket.socket(socket.AF_UNIX)
        self._link.connect(str(_server()))
        request = {"words": words, "cwd": str(cwd), "said": str(self._folder)}
        request["environment"] = dict(os.environ if environment is None else environment)
        self._link.sendall(json.dumps(request).encode() + b"\n")
        self._answers = self._link.makefile("rb", buffering=0)
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

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
        _address = folder / "socket"
    return _address


def serve(address: Path) -> list[str]:
    """Fork for every request; returns only in the forks, with the words of their commands."""
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
    request = json.loads(link.makefile("rb").readline())
    pid = os.fork()
    if pid != 0:  # one that waits for the command and tells how it ended
        link.sendall(f"{pid}\n".encode())
        link.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)
    link.close()
    for number, name in enumerate(("/dev/null", f"{request['said']}/stdout", f"{request['said']}/stderr")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request["words"]


if __name__ == "__main__":
    words = serve(Path(sys.argv[1]))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
