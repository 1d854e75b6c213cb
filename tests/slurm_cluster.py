"""A real SLURM of two nodes on this machine: munged, slurmctld and two slurmd, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
SlurmctldPort=26817
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
SlurmdTimeout=10
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=26818 CPUs=1 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=26819 CPUs=1 RealMemory=2000 State=UNKNOWN
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
    configuration.write_text(CONFIGURATION.format(folder=folder))
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
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld"):
            stop(folder / f"{name}.pid")
        subprocess.run(["pkill", "-f", f"slurmstepd.*{folder}"], check=False)


def stop(pid_file: Path, number: int = signal.SIGKILL) -> None:
    """Kill the daemon that wrote `pid_file`."""
    with suppress(OSError, ValueError):
        os.kill(int(pid_file.read_text()), number)


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


def _wait_for_nodes(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        said = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%T"], env=environment, capture_output=True, text=True
        )
        if said.stdout.split() == ["idle", "idle"]:
            return
        time.sleep(0.5)
    raise RuntimeError("the nodes of SLURM did not come up")
