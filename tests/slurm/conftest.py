"""A real SLURM of two nodes on this machine, unprivileged in its own folder: munged, slurmctld and two slurmd."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
NODES = ("127.0.0.1", "127.0.0.2")
"""Nodes are named after addresses, which resolve by themselves."""
CONF = """\
ClusterName=alpaca
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=1000
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2
ReturnToService=2
KillWait=10
MinJobAge=3600
EnforcePartLimits=ALL
JobRequeue=1
FirstJobId={first}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 GraceTime=60 State=UP
PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Until `condition`; fails naming `what`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.3)


def ask(*words: str) -> str:
    """What a SLURM command prints, also when it fails."""
    return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout


def start_cluster(folder: Path) -> dict[str, str]:
    """Start the daemons; the environment that SLURM's commands need."""
    import getpass

    ports = free_ports(3)
    for name in ("state", "dev", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    gpus = [folder / "dev" / f"gpu{i}" for i in range(4)]
    for gpu in gpus:
        gpu.symlink_to("/dev/null")  # pretend GPUs: only their number counts
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/dev/gpu[0-3]\n")
    lines = [
        f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=8000 Gres=gpu:4"
        for node, port in zip(NODES, ports[1:], strict=True)
    ]
    first = int(time.time()) % 10_000_000 + 1000  # job numbers of an earlier cluster are not met again
    text = CONF.format(folder=folder, port=ports[0], user=getpass.getuser(), first=first, nodes="\n".join(lines))
    (folder / "slurm.conf").write_text(text)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    os.environ.update(environment)
    munge = [f"--{k}={folder}/munge.{v}" for k, v in {"key-file": "key", "socket": "socket", "pid-file": "pid"}.items()]
    munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    subprocess.run(["munged", "--force", *munge], check=True, capture_output=True)
    subprocess.run(["slurmctld", "-i"], check=True, capture_output=True)
    wait_for(lambda: "is UP" in ask("scontrol", "ping"), "slurmctld")
    for node in NODES:
        subprocess.run(["slurmd", "-N", node], check=True, capture_output=True)
    wait_for(lambda: ask("sinfo", "-h", "-p", "low", "-N", "-o", "%t").split() == ["idle"] * 2, "two idle nodes")
    return environment


def stop_cluster(folder: Path) -> None:
    """Cancel what runs and end the daemons by their process ids."""
    subprocess.run(["scancel", "--me"], capture_output=True)
    time.sleep(1)
    numbers = {}
    for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munge"):
        with contextlib.suppress(OSError, ValueError):
            numbers[name] = int((folder / f"{name}.pid").read_text())
            os.kill(numbers[name], signal.SIGTERM)
    for name, number in numbers.items():
        try:
            wait_for(lambda number=number: not Path(f"/proc/{number}").exists(), name, 15)
        except AssertionError:
            os.kill(number, signal.SIGKILL)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The cluster's folder, short enough for a socket's path."""
    import tempfile

    missing = [p for p in PROGRAMS if shutil.which(p, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if missing:
        pytest.skip(
            f"no SLURM here ({missing[0]}): apt-get install slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"
        )
    before = {k: os.environ.get(k) for k in ("SLURM_CONF", "PATH")}
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    try:
        start_cluster(folder)
        yield folder
    finally:
        stop_cluster(folder)
        shutil.rmtree(folder, ignore_errors=True)
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
