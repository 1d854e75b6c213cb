"""The fault matrix on single runs: killed at any moment, at any write, preempted, out of space, read-only.

Other rows are with what they are about: whole sweeps (test_launch*.py), leases (test_runs_leases.py),
logs (test_runs.py), divergence and changed specs (test_training_loop.py).
docs/sweeps.md has the table.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recipes import prepared_sweep
from small_disk import small_disk

from llama_scale.canonical import canonical_json
from llama_scale.runs import EXIT_DONE, EXIT_FAILED, RunConfig, RunFolder, create_run, run_id
from llama_scale.runs.upkeep import harms
from llama_scale.training.checkpoint import restore_newest
from llama_scale.training.data import TokenFiles
from llama_scale.training.trainer import Trainer
from llama_scale.training.worker import work

World = tuple[TokenFiles, RunConfig]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Prepared tokens, and a run of 120 steps, which logs and saves three times."""
    files, (_, branch, *_) = prepared_sweep(tmp_path_factory.mktemp("faults"))
    schedule = replace(branch.schedule, total_steps=120, decay_steps=24)
    return files, replace(branch, branch=None, schedule=schedule)


def store_of(folder: Path, world: World) -> Path:
    create_run(folder, world[1])
    (folder / "data").symlink_to(world[0].folder.parent)
    return folder


def suffer(kind: str, store: Path, run: str, count: int) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("faults.py")), kind, str(store), run]
    done = subprocess.run(
        [*command, str(count), "7"],
        capture_output=True,
        text=True,
        timeout=1800,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("SIGKILL", 8),
        ("SIGTERM", 4),
        ("SIGINT", 4),
        pytest.param("SIGKILL", 50, marks=pytest.mark.soak),
        pytest.param("SIGTERM", 20, marks=pytest.mark.soak),
        pytest.param("SIGINT", 20, marks=pytest.mark.soak),
    ],
)
def test_a_run_stopped_at_any_moment_ends_the_same(
    kind: str, count: int, tmp_path: Path, world: World
) -> None:
    """Killed outright; told to end, with five seconds of grace; interrupted twice."""
    store = store_of(tmp_path / "runs", world)
    seen = suffer(kind, store, run_id(world[1]), count)
    assert seen["faults"] == count and seen["wrong"] == []


@pytest.mark.parametrize("count", [8, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("kind", "least"), [("write", 40), ("error", 20)])
def test_a_run_that_fails_at_any_write_ends_the_same(
    kind: str, least: int, count: int, tmp_path: Path, world: World
) -> None:
    """It dies just before its folder is reached: a file opened, renamed, linked, deleted, cut, a folder made;
    or the disk fails (EIO, ENOSPC) at a sync or a rename: nothing counts as saved that is not.
    """
    store = store_of(tmp_path / "runs", world)
    seen = suffer(kind, store, run_id(world[1]), count)
    assert seen["wrong"] == []
    assert seen["places"] > least and seen["faults"] == min(count, seen["places"])


def outcome(folder: RunFolder) -> object:
    return folder.curve(), folder.result()


def reference(tmp_path: Path, world: World) -> object:
    store = store_of(tmp_path / "calm", world)
    folder = RunFolder(store / run_id(world[1]))
    assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_DONE
    return outcome(folder)


@pytest.mark.parametrize("left", [0, 200, 4096, 60_000])
def test_a_disk_that_fills_up_costs_nothing_that_was_saved(left: int, tmp_path: Path, world: World) -> None:
    """With `left` bytes to spare, the log or the checkpoint is what no longer fits."""
    with small_disk(tmp_path / "disk", "8m") as disk:
        store = store_of(disk / "runs", world)
        folder = RunFolder(store / run_id(world[1]))
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            return asked > 1

        work(store, folder.run, device="cpu", should_stop=stop)
        kept = folder.checkpoint_steps()
        assert kept
        with (disk / "filler").open("wb", buffering=0) as filler:
            room = os.statvfs(disk)
            for size in (room.f_bavail * room.f_bsize - left, 1):
                try:
                    filler.write(b"\0" * max(size, 0))
                except OSError:
                    break
        asked = 0
        code = work(store, folder.run, device="cpu", should_stop=stop)
        if code == EXIT_FAILED:
            said = folder.log.read_text() if folder.log.exists() else "no space left"
            assert "no space left" in said.lower() or "only part of a record" in said
        assert folder.is_finished or folder.checkpoint_steps()[-1] >= kept[-1]
        (disk / "filler").unlink()
        assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_DONE
        assert outcome(folder) == reference(tmp_path, world)


def test_a_store_that_turns_read_only_is_left_whole(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        store = store_of(disk / "runs", world)
        folder = RunFolder(store / run_id(world[1]))
        assert work(store, folder.run, device="cpu", should_stop=lambda: True) != EXIT_DONE
        before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_FAILED
        assert "read-only" in capsys.readouterr().err.lower()
        assert before == {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_DONE
        assert outcome(folder) == reference(tmp_path, world)


def test_a_store_that_vanishes_is_not_half_made_again(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_of(tmp_path / "runs", world)
    folder = RunFolder(store / run_id(world[1]))

    def vanish() -> bool:
        shutil.rmtree(folder.path, ignore_errors=True)
        return False

    assert work(store, folder.run, device="cpu", should_stop=vanish) == EXIT_FAILED
    assert "vanished" in capsys.readouterr().err
    assert not folder.path.exists()


def test_text_that_changed_under_a_sweep_is_not_trained_on(tmp_path: Path, world: World) -> None:
    """One byte of the tokens, one of the tokenizer: a worker refuses before it takes a step."""
    files, config = world
    for name in ("train-00-00000.bin", "tokenizer.json"):
        store = tmp_path / name
        folder = create_run(store, config)
        shutil.copytree(files.folder, store / "data" / files.folder.name)
        changed = store / "data" / files.folder.name / name
        data = changed.read_bytes()
        changed.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_FAILED
        assert re.search("has changed since|the prepared data .* cannot be used", folder.log.read_text())
        assert folder.events() == [] and folder.checkpoint_steps() == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, world: World) -> RunFolder:
    """A run with checkpoints at two steps."""
    store = store_of(tmp_path_factory.mktemp("saved") / "runs", world)
    folder = RunFolder(store / run_id(world[1]))
    for _ in range(2):
        work(store, folder.run, device="cpu", should_stop=lambda: True)
    assert len(folder.checkpoint_steps()) == 2
    return folder


@pytest.mark.parametrize("harm", ["truncated", "flipped"])
@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
def test_a_checkpoint_harmed_anywhere_is_whole_or_passed_over(
    harm: str, name: str, saved: RunFolder, world: World
) -> None:
    """Cut at 20 sizes, or with one bit turned at 50 seeded places: never a state that was not saved."""
    older, newest = saved.checkpoint_steps()
    file = saved.checkpoint_path(newest) / name
    data, good = file.read_bytes(), {step: weights_at(saved, step, world)[1] for step in (older, newest)}
    generator = np.random.default_rng(11)
    if harm == "truncated":
        harmed = [data[: i * len(data) // 20] for i in range(20)]
    else:
        places = generator.integers(len(data), size=50)
        harmed = [
            data[:i] + bytes([data[i] ^ 1 << int(generator.integers(8))]) + data[i + 1 :] for i in places
        ]
    for content in harmed:
        file.write_bytes(content)
        step, weights = weights_at(saved, newest, world)
        assert torch.equal(weights, good[step])
        if step != older:  # 1e-05 and 1E-05 are the same
            assert name == "manifest.json" and json.loads(content) == json.loads(data)
    file.write_bytes(data)


def signed(manifest: dict[str, Any]) -> str:
    """What the file of a manifest of this content says, whatever the content."""
    content = canonical_json(manifest)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return json.dumps({"sha256": sha256, "manifest": manifest})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: json.dumps({"sha256": "0", "manifest": m}), "has changed since it was saved"),
        (lambda m: json.dumps(m), "has no hash of its own"),
        (lambda m: "null", "holds no manifest"),
        (lambda m: signed({**m, "step": m["step"] - 1}), "is of step"),
        (lambda m: signed({**m, "run": "0" * 16}), f"of run {'0' * 16}"),
        (lambda m: signed({**m, "notes": {**m["notes"], "micro_batch": -4}}), "micro_batch is -4"),
        (lambda m: signed({**m, "notes": {**m["notes"], "unlogged": None}}), "unlogged"),
        (lambda m: signed({**m, "notes": {**m["notes"], "unlogged": [[1, 2.0]]}}), "unlogged"),
        (lambda m: signed({**m, "files": {}}), "it names no files"),
        (lambda m: signed({**m, "files": []}), "is no manifest"),
    ],
)
def test_a_manifest_that_is_not_what_was_saved_is_passed_over(
    change: Callable[[dict[str, Any]], str],
    reason: str,
    saved: RunFolder,
    world: World,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = RunFolder(shutil.copytree(saved.path, tmp_path / saved.run))
    older, newest = folder.checkpoint_steps()
    file = folder.checkpoint_path(newest) / "manifest.json"
    file.write_text(change(json.loads(file.read_text())["manifest"]))
    (harm,) = harms(folder)
    assert f"checkpoint {newest} cannot be used" in harm.what and reason in harm.what
    state = Trainer(world[1], world[0], torch.device("cpu")).optimizer.tensors()
    found, ((passed_over, error),) = restore_newest(folder, state, up_to=newest)
    assert found and (found.step, passed_over) == (older, newest)
    assert reason in error.message
    assert capfd.readouterr().err == ""


def test_a_whole_checkpoint_of_another_step_is_passed_over(
    saved: RunFolder, world: World, tmp_path: Path
) -> None:
    folder = RunFolder(shutil.copytree(saved.path, tmp_path / saved.run))
    older, newest = folder.checkpoint_steps()
    shutil.rmtree(folder.checkpoint_path(newest))
    shutil.copytree(folder.checkpoint_path(older), folder.checkpoint_path(newest))
    assert weights_at(folder, newest, world)[0] == older
    assert [harm.what for harm in harms(folder)] == [
        f"checkpoint {newest} cannot be used: manifest.json is of step {older} of run {saved.run}"
    ]


def weights_at(folder: RunFolder, up_to: int, world: World) -> tuple[int, torch.Tensor]:
    """The step that is restored, and all weights there."""
    trainer = Trainer(world[1], world[0], torch.device("cpu"))
    found, _ = restore_newest(folder, trainer.optimizer.tensors(), up_to=up_to)
    assert found
    return found.step, torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
