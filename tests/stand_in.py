"""What a forked command takes for its Python: a command of the project is forked too, and this process stands for it.

It hands signals on, ends as the command ends, and ends it by ending. Anything else runs in a real interpreter; a module
of another package, such as submitit, with this for what it starts. The process that is forked from (see forks.py) writes
this beside its socket, below the lines that name the interpreter.
"""

import json
import os
import signal
import socket
import sys
import time

MODULE = """
import runpy, sys
_, sys.executable, name, *words = sys.argv
sys.argv[:] = [name, *words]
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def stand_in(words: list[str]) -> None:
    link = socket.socket(socket.AF_UNIX)
    link.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "socket"))
    request = {"words": words, "cwd": os.getcwd(), "parent": os.getppid(), "environment": dict(os.environ)}
    socket.send_fds(link, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
    answers = link.makefile("rb", buffering=0)
    pid = int(answers.readline())
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os.kill(pid, number))
    code = int(answers.readline() or b"0")  # nothing: it goes on without its parent, and so does this
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.05)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    words = sys.argv[1:]
    command = words[1:] if words[0] == "-u" else words
    if command[0].endswith(".py") or (command[0] == "-m" and command[1].startswith("alpaca.")):
        stand_in(command)
    if command[0] == "-m":
        words = ["-u", "-c", MODULE, os.path.abspath(__file__), *command[1:]]
    os.execv(sys.executable, [sys.executable, *words])
