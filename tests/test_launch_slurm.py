"""A sweep under a real SLURM: jobs told to end, a node that dies, the launcher killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
from recipes import write_recipe

from llama_scale.launch import prepare_sweep, run_sweep
from llama_scale.runs import read_records, run_folders

pytestmark = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=str(slurm_cluster.missing()))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def start(recipe: Path, store: Path, environment: dict[str, str], *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "llama_scale", "sweep", str(recipe), "--store", str(store), "--json"]
    command = [*words, "--launcher", "slurm", "--device", "cpu", *more]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What a process says on stderr up to the line with `words`, or to its end."""
    assert process.stderr is not None
    said = ""
    while words not in said and (line := process.stderr.readline()):
        said += line
    return said


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def running(environment: dict[str, str], *where: str) -> list[str]:
    command = ["squeue", "-h", "-r", "-o", "%i", "-t", "R", *where]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split()


def training(store: Path) -> bool:
    return store.is_dir() and any(folder.last_event() for folder in run_folders(store))


def test_a_sweep_survives_what_a_cluster_does_to_it(tmp_path: Path, environment: dict[str, str]) -> None:
    recipe, calm = write_recipe(tmp_path / "recipe"), tmp_path / "calm"
    store = tmp_path / "runs of %j"  # of which SLURM makes a number in a log's name, unless it is told
    first = start(recipe, store, environment)
    wait_for(lambda: training(store), "the first steps")
    # The launcher goes; its jobs stay in the queue, and one is told that its time limit is near.
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130 and "stay in the queue" in said
    [job, *_] = running(environment)
    subprocess.run(["scancel", "--batch", "--signal=USR2", job], env=environment, check=True, timeout=60)
    second = start(recipe, store, environment)
    wait_for(lambda: running(environment), "a running job")
    folder = Path(environment["SLURM_CONF"]).parent
    # The controller goes down, and comes back.
    read_until(second, "of 7 runs")
    slurm_cluster.stop(folder / "slurmctld.pid", signal.SIGTERM)  # killed, it forgets which jobs have ended
    silent = "the store is watched until SLURM answers again"
    assert silent in read_until(second, silent)
    subprocess.run(["slurmctld"], env=environment, check=True)
    # A node dies with what runs on it, and comes back when its jobs have gone elsewhere.
    wait_for(lambda: running(environment, "-w", "n2"), "a job on it")
    slurm_cluster.kill_node(folder, "n2")
    wait_for(lambda: "down" in slurm_cluster.node_states(environment), "the end of a node")
    subprocess.run(["slurmd", "-N", "n2"], env=environment, check=True)
    _, said = second.communicate(timeout=600)
    assert "7 of 7 runs" in said and "cannot identify" in said, said  # all trained: too few for a law

    prepared = prepare_sweep(recipe, store=calm, workers=2, device="cpu")
    run_sweep(prepared, store=calm, device="cpu")
    assert read_records(store) == read_records(calm)


def test_options_that_slurm_refuses_are_named(tmp_path: Path, environment: dict[str, str]) -> None:
    process = start(
        write_recipe(tmp_path), tmp_path / "runs", environment, "--launcher-options=--partition=nosuch"
    )
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "sbatch refused" in said and "--launcher-options" in said


def test_a_machine_without_slurm_says_so(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    process = start(write_recipe(tmp_path), tmp_path / "runs", {**os.environ, "PATH": str(empty)})
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and "there is no sbatch" in said
