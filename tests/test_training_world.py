"""One run shared by processes that the real torchrun started: the same losses, whoever goes on with it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from single_recipe import TOGETHER, finish, only_run, start, train, wait_for, wait_for_start, write_single
from torch import distributed

from llama_scale.errors import LlamaScaleError, StoreError
from llama_scale.runs import RunFolder
from llama_scale.runs.manifests import read_manifest, write_manifest
from llama_scale.training.checkpoint import restore_checkpoint
from llama_scale.training.model import Llama
from llama_scale.training.world import World, joined_world

STEPS = 40


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single(tmp_path_factory.mktemp("home"), STEPS)


@pytest.fixture(scope="module")
def alone(home: Path) -> dict[str, Any]:
    """The result of the run in one process that nothing disturbed."""
    return train(home, "--store", "alone")


@pytest.fixture(scope="module")
def begun_together(home: Path) -> RunFolder:
    """The run begun by two processes and interrupted: a checkpoint in two parts."""
    process = start(home, "--store", "together", launcher=TOGETHER)
    folder = wait_for_start(home / "together", process, 1)
    process.send_signal(signal.SIGINT)
    _, said = finish(process, code=None)
    assert "torchrun --nproc-per-node 2 -m llama_scale train one.toml" in said
    assert folder.checkpoint_steps() and not folder.is_finished
    return folder


def curve(folder: RunFolder) -> list[float]:
    """Every step's loss."""
    return [loss for e in folder.events() if e["event"] == "train" for loss in e["each_loss_nats"]]


def copy(folder: RunFolder, home: Path, name: str) -> RunFolder:
    """The store of `folder` as it is now, under another name."""
    shutil.copytree(folder.path.parent, home / name)
    return only_run(home / name)


@pytest.mark.slow
def test_what_two_began_one_ends_with_the_same_loss(
    home: Path, alone: dict[str, Any], begun_together: RunFolder
) -> None:
    folder = copy(begun_together, home, "ends-alone")
    files = {path.name for path in folder.checkpoint_path(folder.checkpoint_steps()[-1]).iterdir()}
    assert files == {"__0_0.distcp", "__1_0.distcp", ".metadata", "manifest.json"}
    result = train(home, "--store", "ends-alone")
    assert result["run"] == alone["run"] and result["processes"] == 1
    assert result["loss_nats"] == pytest.approx(alone["loss_nats"], rel=1e-6)
    assert curve(folder) == pytest.approx(curve(only_run(home / "alone")), rel=1e-6)


@pytest.mark.slow
def test_what_one_began_two_end_with_the_same_loss(home: Path, alone: dict[str, Any]) -> None:
    process = start(home, "--store", "begun-alone")
    folder = wait_for_start(home / "begun-alone", process, 1)
    process.send_signal(signal.SIGINT)
    finish(process, code=130)
    assert folder.checkpoint_steps() and not folder.is_finished
    result = train(home, "--store", "begun-alone", launcher=TOGETHER)
    assert result["processes"] == 2
    assert result["loss_nats"] == pytest.approx(alone["loss_nats"], rel=1e-6)
    assert curve(folder) == pytest.approx(curve(only_run(home / "alone")), rel=1e-6)


@pytest.mark.slow
def test_a_process_killed_mid_run_ends_all_and_loses_nothing(
    home: Path, alone: dict[str, Any], begun_together: RunFolder
) -> None:
    folder = copy(begun_together, home, "killed")
    process = start(home, "--store", "killed", launcher=TOGETHER)
    wait_for_start(home / "killed", process, 2)
    victim = max(children(process.pid))
    os.kill(victim, signal.SIGKILL)
    _, said = finish(process, code=1)
    assert "error: another process of this run failed or was killed" in said and "[rank" not in said
    wait_for(lambda: not children(process.pid))
    if not folder.is_finished:
        train(home, "--store", "killed", launcher=TOGETHER)
    assert curve(folder) == pytest.approx(curve(only_run(home / "alone")), rel=1e-6)
    result = folder.result()
    assert result and result["loss_nats"] == pytest.approx(alone["loss_nats"], rel=1e-6)


def test_what_keeps_processes_from_each_other_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though no process failed: a container may have too little shared memory for NCCL."""
    said = (
        "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error\nLast error:\nno room in /dev/shm\n"
    )
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in {**alone, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LlamaScaleError, match=r"\(no room in /dev/shm\), so all"), joined_world("cpu"):
        raise distributed.DistBackendError(said)


@pytest.mark.slow
def test_processes_that_cannot_share_a_step_are_refused_before_anything_is_written(home: Path) -> None:
    words = ("--store", "uneven", "--set", "training.sequences_per_step=3")
    _, said = finish(start(home, *words, launcher=TOGETHER), code=1)
    assert said.count("error: 2 processes cannot share 3 sequences a step evenly") == 1
    assert "[rank" not in said  # as torch begins each line of a traceback
    assert not list((home / "uneven").glob("*/spec.json"))


@pytest.mark.slow
def test_one_of_all_processes_tells_a_dry_run(home: Path) -> None:
    assert train(home, "--store", "dry", "--dry-run", launcher=TOGETHER)["steps"] == STEPS


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def weights_of(folder: RunFolder) -> dict[str, dict[str, torch.Tensor]]:
    model = Llama(folder.config.model)
    return {"weights": {name: p.detach() for name, p in model.named_parameters()}}


@pytest.mark.slow
def test_a_part_that_was_changed_is_found(home: Path, begun_together: RunFolder) -> None:
    folder = copy(begun_together, home, "changed")
    (step,) = folder.checkpoint_steps()
    restore_checkpoint(folder, step, weights_of(folder))
    part = folder.checkpoint_path(step) / "__1_0.distcp"
    data = part.read_bytes()
    part.write_bytes(data[:900] + bytes([data[900] ^ 1]) + data[901:])
    with pytest.raises(StoreError, match=r"__1_0\.distcp has changed"):
        restore_checkpoint(folder, step, weights_of(folder))


@pytest.mark.slow
def test_metadata_that_would_run_code_are_refused(home: Path, begun_together: RunFolder) -> None:
    folder = copy(begun_together, home, "hostile")
    (step,) = folder.checkpoint_steps()
    path = folder.checkpoint_path(step)
    hostile = b"cos\nsystem\n(S'touch " + str(home / "harm").encode() + b"'\ntR."
    (path / ".metadata").write_bytes(hostile)
    manifest = read_manifest(path, folder.run, step)
    files = {**manifest.files, ".metadata": hashlib.sha256(hostile).hexdigest()}
    write_manifest(path, replace(manifest, files=files))
    with pytest.raises(StoreError, match=r"names (os|posix)\.system"):
        restore_checkpoint(folder, step, weights_of(folder))
    assert not (home / "harm").exists()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_row_is_somebodys(size: int) -> None:
    rows = [row for rank in range(size) for row in range(20)[World(rank=rank, size=size).rows(20)]]
    assert rows == list(range(20))
