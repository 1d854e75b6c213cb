"""A real SLURM of two nodes on this machine: munged, slurmctld and two slurmd, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldAddr=127.0.0.1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=cred_expire=5
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
JobRequeue=1
MaxArraySize=2
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=6
MessageTimeout=3
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


def missing() -> str | None:
    """Why no SLURM can be started here; None if one can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"SLURM is not installed: {', '.join(absent)} (Debian packages slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "SLURM's daemons need root"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Gives the environment in which sbatch and squeue speak to the cluster."""
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, ports=_free_ports()))
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    try:
        _start_munge()
        subprocess.run(["slurmctld", "-c"], env=environment, check=True)
        for node in ("n1", "n2"):
            subprocess.run(["slurmd", "-N", node], env=environment, check=True)
        _wait_for_nodes(environment)
        yield environment
    finally:
        for node in ("n1", "n2"):
            kill_node(folder, node)
        stop(folder / "slurmctld.pid")


def stop(pid_file: Path, number: int = signal.SIGKILL) -> None:
    """Kill the daemon that wrote `pid_file`."""
    with suppress(OSError, ValueError):
        os.kill(int(pid_file.read_text()), number)


def kill_node(folder: Path, node: str) -> None:
    """Kill the daemon of a node and all that runs on it, but nothing of the other node or another cluster."""
    stop(folder / f"slurmd-{node}.pid")
    its_own = {f"SLURM_CONF={folder / 'slurm.conf'}".encode(), f"SLURMD_NODENAME={node}".encode()}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if its_own.issubset((process / "environ").read_bytes().split(b"\0")):
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if "slurmstepd" in (Path("/proc") / str(parent) / "cmdline").read_text():
                    os.kill(parent, signal.SIGKILL)
                os.kill(int(process.name), signal.SIGKILL)


def _free_ports() -> list[int]:
    """Three of them, so that several clusters may stand on one machine."""
    with ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return [server.getsockname()[1] for server in servers]


def _start_munge() -> None:
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
    for path in ("/run/munge", "/var/log/munge", "/var/lib/munge", "/etc/munge"):
        Path(path).mkdir(exist_ok=True)
        subprocess.run(["chown", "-R", "munge:", path], check=True)
    subprocess.run(["su", "-s", "/bin/bash", "munge", "-c", "munged --force"], check=True)


def node_states(environment: dict[str, str]) -> list[str]:
    """What the controller says of the nodes, such as idle or down."""
    command = ["sinfo", "-h", "-N", "-o", "%T"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    return [state.strip("*") for state in said.split()]


def _wait_for_nodes(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if node_states(environment) == ["idle", "idle"]:
            return
        time.sleep(0.5)
    raise RuntimeError("the nodes of SLURM did not come up")
