"""What a worker takes, what there is, and what becomes of a run that the kernel kills for want of memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from control_group import limited
from recipes import write_recipe

from llama_scale.launch import prepare_sweep
from llama_scale.launch.local import launch_locally
from llama_scale.launch.memory import PROCESS_BYTES, memory_bytes
from llama_scale.launch.tasks import Task
from llama_scale.runs import Precision, RunConfig, create_run
from llama_scale.training.free_memory import free_memory_bytes
from llama_scale.training.preparing import prepare

PEAK = """
import sys, torch
from llama_scale.runs import RunFolder
from llama_scale.training.speed import seconds_per_step
from pathlib import Path
seconds_per_step(RunFolder(Path(sys.argv[1])).config, "cpu")
# Not getrusage's, which survives exec: a test process of a gigabyte would be measured in its place.
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
peak, libraries = (int(status[name].split()[0]) * 1024 for name in ("VmHWM", "RssFile"))
print(peak - libraries)
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


def a_run(recipe: Path, store: Path) -> RunConfig:
    """A run of its own, 20 steps long."""
    branch = prepare_sweep(recipe, store=store, workers=1, device="cpu").sweep.runs[1]
    schedule = replace(branch.schedule, total_steps=20, decay_steps=4, warmup_steps=4)
    return replace(branch, branch=None, schedule=schedule)


def alone(config: RunConfig, store: Path) -> Task:
    folder = create_run(store, config)
    return Task(
        folder=folder,
        config=config,
        steps=20,
        flops=1.0,
        seconds=1.0,
        path_seconds=1.0,
        parent=None,
        branches=(),
    )


@pytest.mark.parametrize(("precision", "micro_batch"), [("f32", None), ("bf16", None), ("f32", 64)])
def test_the_estimate_holds_what_training_really_takes(
    recipe: Path, tmp_path: Path, precision: Precision, micro_batch: int | None
) -> None:
    config = replace(a_run(recipe, tmp_path), precision=precision, micro_batch=micro_batch)
    model = replace(config.model, width=256, heads=8, kv_heads=8, head_size=32, hidden=768, vocabulary=8192)
    config = replace(config, model=model, sequences_per_step=256)
    folder = create_run(tmp_path, config).path
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder)], capture_output=True, text=True, check=True
    )
    measured = int(done.stdout)
    assert PROCESS_BYTES * 1.2 < measured < memory_bytes(config) < 2.5 * measured


def test_a_control_group_counts_as_the_machine(tmp_path: Path) -> None:
    question = "from llama_scale.training.free_memory import free_memory_bytes; print(free_memory_bytes())"
    with limited(tmp_path, 300_000_000, sys.executable) as python:
        said = subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout
        assert 200_000_000 < float(said) < 300_000_000 < free_memory_bytes()


def test_a_run_that_is_killed_for_want_of_memory_is_named_and_the_others_are_trained(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "runs"
    small = a_run(recipe, store)
    large = replace(small, sequences_per_step=65_536, micro_batch=65_536)  # by itself it takes what fits
    prepared = prepare_sweep(recipe, store=store, workers=1, device="cpu")
    assert prepared.text is not None
    prepare(prepared.text, prepared.sweep.spec.data, store)
    tasks = [alone(config, store) for config in (large, small)]
    with limited(tmp_path, 700_000_000, sys.executable) as python:
        code = subprocess.run(
            ["sh", "-c", f"{python} -m llama_scale worker {tasks[0].run} --store {store}; echo $?"],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert code.stdout.split()[-1] == "137"
        monkeypatch.setattr(sys, "executable", python)
        report = launch_locally(store, tasks, workers=1, device="cpu", watch=lambda _: None)
    assert report.failed == (tasks[0].run,)
    assert "ended by SIGKILL, by somebody or for want of memory" in tasks[0].folder.log.read_text()
    assert tasks[1].folder.is_finished
