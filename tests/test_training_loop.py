"""One run, for real: what it records, and that nothing that happens to it changes a bit of its curve."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from traceback import walk_tb
from typing import Any

import pytest
import torch
from recipes import prepared_sweep

from llama_scale.errors import InputError, StoreError
from llama_scale.runs import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_RETRY,
    INTEGERS,
    BusyError,
    Precision,
    RunConfig,
    RunFolder,
    create_run,
    leases,
    read_record,
    run_id,
)
from llama_scale.training import loop
from llama_scale.training.checkpoint import restore_newest, save_checkpoint
from llama_scale.training.data import TokenFiles
from llama_scale.training.environment import choose_device
from llama_scale.training.kernels import Library
from llama_scale.training.loop import train_run
from llama_scale.training.model import Llama
from llama_scale.training.trainer import Trainer
from llama_scale.training.worker import work

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenFiles, list[RunConfig]]:
    """Prepared tokens and the runs of a tiny sweep: trunk, branches, trunk, branches, hold-out."""
    files, runs = prepared_sweep(tmp_path_factory.mktemp("world"))
    return files, list(runs)


def store_with(tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]) -> tuple[Path, TokenFiles]:
    files, runs = world
    store = tmp_path / "runs"
    for run in runs:
        create_run(store, run)
    (store / "data").symlink_to(files.folder.parent)
    return store, files


def train(store: Path, config: RunConfig, files: TokenFiles, stop_after: float = float("inf")) -> str:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > stop_after

    return train_run(store, RunFolder(store / run_id(config)), files, device=CPU, should_stop=should_stop)


def straight(config: RunConfig) -> RunConfig:
    """The same schedule as a branch's, trained from its own start."""
    return replace(config, branch=None)


def test_a_run_goes_on_with_its_own_tokenizer_only(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    """Prepared anew by another version of the library that trains it, the same text makes other tokens."""
    store, files = store_with(tmp_path, world)
    trunk, branch = world[1][:2]
    assert train(store, trunk, files, stop_after=0) == "stopped"
    other = {**files.manifest, "tokenizer": {**files.manifest["tokenizer"], "sha256": "0" * 64}}
    for config in (trunk, branch):
        folder = RunFolder(store / run_id(config))
        loop.check_corpus(folder, files)
        with pytest.raises(StoreError, match=f"run {run_id(trunk)} began on tokenizer .* of tokenizer 000"):
            loop.check_corpus(folder, replace(files, manifest=other))


def test_a_trunk_and_branch_end_as_one_straight_run_does_to_the_bit(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    store, files = store_with(tmp_path, world)
    trunk, branch = world[1][:2]
    assert train(store, branch, files) == "waiting"
    assert train(store, trunk, files) == "done"
    assert train(store, branch, files) == "done"
    create_run(store, straight(branch))
    assert train(store, straight(branch), files) == "done"
    results = [RunFolder(store / run_id(c)).result() for c in (branch, straight(branch))]
    assert results[0] and results[1]
    assert results[0]["loss_nats"] == results[1]["loss_nats"]
    assert results[0]["bits_per_byte"] == results[1]["bits_per_byte"]


def test_a_run_stopped_and_resumed_has_the_curve_of_one_that_was_not(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    files, runs = world
    config = straight(runs[-1])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    create_run(whole, config)
    create_run(broken, config)
    assert train(whole, config, files) == "done"
    for _ in range(3):
        assert train(broken, config, files, stop_after=1) == "stopped"
    assert train(broken, config, files) == "done"
    folders = [RunFolder(store / run_id(config)) for store in (whole, broken)]
    assert folders[0].curve() == folders[1].curve()
    results = [folder.result() for folder in folders]
    assert results[0] == results[1]


@pytest.mark.parametrize("precision", INTEGERS)
def test_a_run_of_integers_goes_on_to_the_bit(
    precision: Precision, tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], kernels: Library
) -> None:
    files, runs = world
    plain = straight(runs[-1])
    wide = replace(plain.model, layers=1, width=64, heads=2, kv_heads=2, head_size=32, hidden=192)
    calm = replace(plain.optimizer, learning_rate=1e-3)  # at 8e-3 a last bit changes the end by a percent
    config = replace(plain, model=wide, optimizer=calm, precision=precision)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    create_run(whole, config)
    create_run(broken, config)
    torch.set_num_threads(2)
    assert train(whole, config, files) == "done"
    assert train(broken, config, files, stop_after=1) == "stopped"
    torch.set_num_threads(1)  # a run goes on with those it began with
    assert train(broken, config, files) == "done"
    folders = [RunFolder(store / run_id(config)) for store in (whole, broken)]
    assert folders[0].curve() == folders[1].curve()
    starts = [event for event in folders[1].events() if event["event"] == "start"]
    assert {(start["threads"], start["kernels"]) for start in starts} == {(2, kernels.name)}
    exact = replace(config, precision="f32")
    create_run(whole, exact)
    assert train(whole, exact, files) == "done"
    losses = [RunFolder(whole / run_id(c)).result() for c in (config, exact)]
    assert losses[0] and losses[1] and losses[0]["loss_nats"] != losses[1]["loss_nats"]
    assert losses[0]["loss_nats"] == pytest.approx(losses[1]["loss_nats"], rel=2e-3)


def test_a_slow_run_stops_within_an_interval_and_its_curve_stays_the_same(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, runs = world
    config = straight(runs[-1])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    create_run(whole, config)
    folder = create_run(broken, config)
    assert train(whole, config, files) == "done"
    monkeypatch.setattr(loop, "LOOK_SECONDS", 0.0)  # as if every step took a second
    assert train(broken, config, files, stop_after=6) == "stopped"
    assert folder.checkpoint_steps() == [7]
    assert train(broken, config, files, stop_after=60) == "stopped"
    assert train(broken, config, files) == "done"
    assert folder.curve() == RunFolder(whole / folder.run).curve()
    assert folder.result() == RunFolder(whole / folder.run).result()


def test_a_run_that_goes_on_with_other_threads_has_the_curve_of_those_it_began_with(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    """As where a sweep goes on with another number of workers: cores are shared out among them."""
    files, runs = world
    config = straight(runs[-1])
    config = replace(config, schedule=replace(config.schedule, total_steps=60, decay_steps=10))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    folders = [create_run(store, config) for store in (whole, broken)]
    torch.set_num_threads(2)
    assert train(whole, config, files) == "done"
    assert train(broken, config, files, stop_after=3) == "stopped"
    torch.set_num_threads(1)
    assert train(broken, config, files) == "done"
    assert torch.get_num_threads() == 1
    assert folders[0].curve() == folders[1].curve()
    assert folders[0].result() == folders[1].result()
    assert {e["threads"] for f in folders for e in f.events() if e["event"] == "start"} == {2}


def test_a_finished_run_is_left_alone(tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]) -> None:
    store, files = store_with(tmp_path, world)
    config = straight(world[1][1])
    folder = create_run(store, config)
    train(store, config, files)
    before = {
        p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.is_file() and p.parent.name != "leases"
    }
    assert train(store, config, files) == "done"
    assert before == {
        p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.is_file() and p.parent.name != "leases"
    }


def test_a_record_says_what_was_trained(tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]) -> None:
    store, files = store_with(tmp_path, world)
    config = straight(world[1][1])
    create_run(store, config)
    train(store, config, files)
    record = read_record(RunFolder(store / run_id(config)))
    assert record.status == "done" and record.schedule_complete
    assert record.tokens == (config.schedule.total_steps or 0) * config.tokens_per_step
    assert record.train_flops == config.model.train_flops_per_token() * record.tokens
    assert record.corpus == files.corpus and record.tokenizer == files.tokenizer_sha256
    assert record.loss_nats and record.bits_per_byte and 1 < record.bits_per_byte < record.loss_nats * 2
    context = config.model.context
    text = sum((len(source.train) - 1) // context * context for source in files.sources)
    assert record.unique_tokens == min(record.tokens, text)


@pytest.mark.parametrize("harm", ["truncate", "flip", "no manifest"])
def test_a_harmed_checkpoint_is_passed_over_and_the_curve_stays_the_same(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], harm: str
) -> None:
    files, runs = world
    config = straight(runs[-1])
    whole, harmed = tmp_path / "whole", tmp_path / "harmed"
    for store in (whole, harmed):
        create_run(store, config)
    train(whole, config, files)
    for _ in range(3):
        train(harmed, config, files, stop_after=0)
    folder = RunFolder(harmed / run_id(config))
    newest = folder.checkpoint_path(folder.checkpoint_steps()[-1]) / "state.pt"
    data = newest.read_bytes()
    if harm == "no manifest":
        (newest.parent / "manifest.json").unlink()
    else:
        newest.write_bytes(
            data[:-100] if harm == "truncate" else data[:5000] + bytes([data[5000] ^ 4]) + data[5001:]
        )
    # The one made again at its step takes its place.
    at = folder.checkpoint_steps()[-1]
    assert train(harmed, config, files, stop_after=0) == "stopped"
    state = loop.Trainer(config, files, CPU).optimizer.tensors()
    restored, passed_over = restore_newest(folder, state, up_to=at)
    assert restored and restored.step == at and not passed_over
    assert train(harmed, config, files) == "done"
    assert folder.curve() == RunFolder(whole / run_id(config)).curve()
    assert any(e["event"] == "checkpoint_passed_over" for e in folder.events())


@pytest.mark.parametrize("harmed", ["state.pt", "manifest.json"])
def test_a_harmed_branch_point_is_made_again_by_its_trunk(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], harmed: str
) -> None:
    store, files = store_with(tmp_path, world)
    trunk, branch = world[1][:2]
    train(store, trunk, files)
    parent = RunFolder(store / run_id(trunk))
    state = parent.checkpoint_path(branch.first_step) / "state.pt"
    good = torch.load(state, weights_only=True)["weights"]
    (state.parent / harmed).unlink()
    assert train(store, branch, files) == "waiting"
    assert train(store, trunk, files) == "done"
    again = torch.load(state, weights_only=True)["weights"]
    assert all(torch.equal(again[name], good[name]) for name in good)
    assert train(store, branch, files) == "done"


def test_a_trunk_that_goes_on_makes_its_harmed_branch_points_again(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    store, files = store_with(tmp_path, world)
    trunk, first, second = world[1][:3]
    parent = RunFolder(store / run_id(trunk))

    def is_past_the_first() -> bool:
        return first.first_step in parent.checkpoint_steps()

    stopped = train_run(store, parent, files, device=CPU, should_stop=is_past_the_first)
    assert stopped == "stopped" and second.first_step not in parent.checkpoint_steps()
    for step in parent.checkpoint_steps():
        (parent.checkpoint_path(step) / "state.pt").write_bytes(b"torn")
    assert train(store, trunk, files) == "done"
    assert {first.first_step, second.first_step} <= set(parent.checkpoint_steps())
    assert train(store, first, files) == "done"


def diverged(store: Path, config: RunConfig, files: TokenFiles) -> tuple[dict[str, Any], list[float]]:
    """The record and the logged losses, all finite, of a run that diverges and is not tried again."""
    assert train(store, config, files) == "diverged"
    folder = RunFolder(store / run_id(config))
    result = folder.result()
    assert result and result["status"] == "diverged" and result["loss_nats"] is None and result["steps"] > 0
    losses = [loss for e in folder.events() if e["event"] == "train" for loss in e["each_loss_nats"]]
    assert all(map(math.isfinite, losses))
    assert train(store, config, files) == "done"
    return result, losses


def test_a_diverged_run_says_so_and_is_not_tried_again(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    store, files = store_with(tmp_path, world)
    config = straight(world[1][1])
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=1e12, clip_norm=1e30))
    create_run(store, config)
    result, losses = diverged(store, config, files)
    assert result["data"][0]["tokens"] == result["tokens"] == result["steps"] * config.tokens_per_step
    assert len(losses) == result["steps"] - 1


def test_a_run_whose_last_update_was_too_much_has_diverged(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    """Only the evaluation sees it: all losses in training precede that update."""
    store, files = store_with(tmp_path, world)
    config = straight(world[1][1])
    schedule = replace(config.schedule, kind="constant", total_steps=2, decay_steps=0, warmup_steps=0)
    config = replace(config, schedule=schedule, optimizer=replace(config.optimizer, learning_rate=1e7))
    create_run(store, config)
    result, losses = diverged(store, config, files)
    assert len(losses) == result["steps"] == 2


def test_the_log_says_that_memory_ran_out_in_the_evaluation(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Trainer._evaluated

    def cramped(trainer: Trainer) -> dict[str, float | int]:
        if trainer.micro_batch > 1:
            raise MemoryError
        return measure(trainer)

    monkeypatch.setattr(Trainer, "_evaluated", cramped)
    store, files = store_with(tmp_path, world)
    config = straight(world[1][1])
    create_run(store, config)
    assert train(store, config, files) == "done"
    (noted,) = (e for e in RunFolder(store / run_id(config)).events() if e["event"] == "out_of_memory")
    assert noted["micro_batch"] == 1 and noted["step"] == config.schedule.total_steps


def test_a_branch_diverges_with_its_trunk(tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]) -> None:
    """It never waits for a point that its trunk will not reach."""
    store, files = store_with(tmp_path, world)
    trunk, branch = world[1][:2]
    assert branch.branch
    trunk = replace(trunk, optimizer=replace(trunk.optimizer, learning_rate=1e12, clip_norm=1e30))
    branch = replace(branch, branch=replace(branch.branch, parent=run_id(trunk)))
    create_run(store, trunk)
    create_run(store, branch)
    assert train(store, branch, files) == "waiting"
    assert train(store, trunk, files) == "diverged"
    assert train(store, branch, files) == "diverged"
    results = [RunFolder(store / run_id(config)).result() or {} for config in (trunk, branch)]
    assert results[1]["status"] == "diverged" and results[1]["loss_nats"] is None
    assert results[1]["steps"] == results[0]["steps"] <= branch.first_step


def test_a_run_belongs_to_one_process_at_a_time(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    store, files = store_with(tmp_path, world)
    trunk = world[1][0]
    folder = RunFolder(store / run_id(trunk))
    with folder.claim(), pytest.raises(BusyError):
        train(store, trunk, files)
    with folder.claim():
        assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_RETRY
    assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_DONE


def test_a_finished_run_is_not_claimed_again(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    """So that a worker finds it done where nothing can be written."""
    store, _ = store_with(tmp_path, world)
    folder = RunFolder(store / run_id(world[1][1]))
    folder.write_result({"status": "done", "steps": 1, "loss_nats": 3.0})
    (folder.path / "leases").write_text("no folder")
    assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_DONE


def test_a_worker_refuses_bf16_where_its_card_only_emulates_it(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who started the sweep had another card, or none."""
    store, config = store_with(tmp_path, world)[0], replace(world[1][0], precision="bf16")
    create_run(store, config)
    monkeypatch.setattr("llama_scale.training.kernels.has_bf16", lambda device: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a T4")
    folder = RunFolder(store / run_id(config))
    assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_FAILED
    assert "bf16, which a T4 does not compute in" in folder.log.read_text()


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_gives_its_card_back_once_a_run_has_ended(
    fails: bool, tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch keeps the memory of a model that is gone, which the next one of another worker counts on.

    Gone it is not while garbage holds it: so does a cycle that torch's late imports leave of a first run.
    """

    def models() -> int:
        return sum(type(thing) is Llama for thing in gc.get_objects())

    def advance_in_cycle(trainer: Trainer) -> None:
        cycle: list[object] = [trainer]
        cycle.append(cycle)
        if fails:
            raise RuntimeError("a step that fails")
        advance(trainer)

    (store, _), run = store_with(tmp_path, world), run_id(straight(world[1][1]))
    create_run(store, straight(world[1][1]))
    gc.collect()
    gc.disable()  # what waits for it would be kept
    kept, found, advance = models(), list[int](), Trainer.advance
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append(models() - kept))
    monkeypatch.setattr(Trainer, "advance", advance_in_cycle)
    try:
        code = work(store, run, device="cpu", should_stop=lambda: False)
    finally:
        gc.enable()
    assert (code, found) == (EXIT_FAILED if fails else EXIT_DONE, [0])


def test_a_run_that_its_card_failed_ends_with_its_reason_though_the_card_takes_nothing_back(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure of its own a card fails every call, that which gives its memory back too."""

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    (store, _), run = store_with(tmp_path, world), run_id(straight(world[1][1]))
    create_run(store, straight(world[1][1]))
    monkeypatch.setattr(Trainer, "advance", fail)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    assert work(store, run, device="cpu", should_stop=lambda: False) == EXIT_FAILED
    assert "illegal memory access" in RunFolder(store / run).log.read_text()


def test_a_changed_spec_is_refused(tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]) -> None:
    store, _ = store_with(tmp_path, world)
    folder = RunFolder(store / run_id(world[1][0]))
    spec = json.loads((folder.path / "spec.json").read_text())
    spec["config"]["seed"] = 99
    (folder.path / "spec.json").write_text(json.dumps(spec))
    assert work(store, folder.run, device="cpu", should_stop=lambda: False) == EXIT_FAILED
    assert "was changed" in folder.log.read_text()


def test_checkpoints_do_not_pile_up(tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]) -> None:
    store, files = store_with(tmp_path, world)
    trunk, *branches = [c for c in world[1] if c.model.width == 16]
    train(store, trunk, files)
    parent = RunFolder(store / run_id(trunk))
    assert set(parent.checkpoint_steps()) == {b.first_step for b in branches}
    for branch in branches:
        train(store, branch, files)
        assert RunFolder(store / run_id(branch)).checkpoint_steps() == []
    assert len(parent.checkpoint_steps()) == 2


def start_worker(folder: RunFolder) -> subprocess.Popen[bytes]:
    """A worker on one run that saves at every interval, so that faults fall on both sides of checkpoints."""
    program = (
        "import sys; from pathlib import Path; from llama_scale.runs import leases;"
        "from llama_scale.training import loop, worker; leases.HEARTBEAT_SECONDS = 0.05;"
        "loop.CHECKPOINT_SECONDS = 0.0; worker.use_allotted_threads();"
        "sys.exit(worker.work(Path(sys.argv[1]), sys.argv[2], device='cpu', should_stop=lambda: False))"
    )
    command = [sys.executable, "-c", program, str(folder.path.parent), folder.run]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for_events(folder: RunFolder, process: subprocess.Popen[bytes], count: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and len(folder.events()) < count and time.monotonic() < deadline:
        time.sleep(0.002)


def test_a_worker_that_was_stopped_past_its_lease_writes_no_more(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, runs = world
    config = straight(runs[-1])
    whole = tmp_path / "whole"
    create_run(whole, config)
    train(whole, config, files)
    store, _ = store_with(tmp_path, world)
    folder = create_run(store, config)
    zombie = start_worker(folder)
    try:
        wait_for_events(folder, zombie, 3)
        zombie.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
        device = "cpu"
        assert work(store, folder.run, device=device, should_stop=lambda: False, wait_seconds=30) == EXIT_DONE
        left = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file() and p.suffix != ".tmp"}
        zombie.send_signal(signal.SIGCONT)
        assert zombie.wait(60) == EXIT_RETRY
    finally:
        zombie.kill()
    assert left == {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    assert folder.curve() == RunFolder(whole / folder.run).curve()
    assert folder.result() == RunFolder(whole / folder.run).result()


def test_a_killed_worker_loses_nothing(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker process killed with SIGKILL at several moments ends with the curve of one that was not."""
    files, runs = world
    config = straight(runs[-1])
    whole = tmp_path / "whole"
    create_run(whole, config)
    train(whole, config, files)
    store, _ = store_with(tmp_path, world)
    folder = create_run(store, config)
    for records in (1, 4, 7):
        process = start_worker(folder)
        wait_for_events(folder, process, records)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start_worker(folder).wait() == EXIT_DONE
    assert folder.curve() == RunFolder(whole / run_id(config)).curve()
    result, expected = folder.result(), RunFolder(whole / run_id(config)).result()
    assert result == expected


def test_a_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        folder = create_run(disk / "runs", world[1][0])
        state = {"weights": {"w": torch.zeros(1000)}}
        save_checkpoint(folder, 10, state)
        with pytest.raises(StoreError, match="no space left") as caught:
            save_checkpoint(folder, 20, {"weights": {"w": torch.zeros(1_000_000)}})
        assert _buffers_can_move(caught.value)
        assert folder.checkpoint_steps() == [10]
        restored, passed_over = restore_newest(folder, state, up_to=20)
        assert restored and restored.step == 10 and not passed_over
        assert [p.name for p in folder.checkpoints.iterdir()] == ["step-000000010"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_checkpoint_that_could_not_be_saved_leaves_no_view_of_its_memory(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    """Python 3.12 dies, and 3.13 complains, where a traceback's cycle takes such a view with its buffer."""

    def fenced() -> None:
        raise StoreError("no longer ours", hint="none")

    folder = create_run(tmp_path, world[1][0])
    with pytest.raises(StoreError) as caught:
        save_checkpoint(folder, 10, {"weights": {"w": torch.zeros(10)}}, check=fenced)
    assert _buffers_can_move(caught.value)


def _buffers_can_move(error: BaseException) -> bool:
    """Whether there are buffers in the frames that an error passed, and none has a view (a BufferError)."""
    causes = [cause for cause in (error, error.__cause__) if cause is not None]
    frames = [frame for cause in causes for frame, _ in walk_tb(cause.__traceback__)]
    buffers = [
        value for frame in frames for value in frame.f_locals.values() if isinstance(value, io.BytesIO)
    ]
    for buffer in buffers:
        buffer.truncate(0)
    return bool(buffers)


def test_intervals_end_where_logs_and_branches_need_them(world: tuple[TokenFiles, list[RunConfig]]) -> None:
    files, runs = world
    trainer = loop.Trainer(runs[0], files, CPU)
    goal = loop.Goal(last_step=120, needed=frozenset({30, 120}), missing=frozenset({30, 120}))
    seen = [glance.steps[-1].step for glance in loop._glances(trainer, goal)]
    assert {30, 50, 100, 120} <= set(seen)
    assert [step for step in seen if step in loop._ends(step - 1, goal)] == [30, 50, 100, 120]


def test_a_run_that_went_back_keeps_what_it_saves(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    """Checkpoints beyond a damaged log do not push out the new ones before them."""
    files, runs = world
    config = straight(runs[-1])
    folder = create_run(tmp_path, config)
    for _ in range(3):
        train(tmp_path, config, files, stop_after=4)
    log = folder.path / "events.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:1]))
    assert train(tmp_path, config, files, stop_after=0) == "stopped"
    saved = folder.checkpoint_steps()[0]
    assert saved == [e["step"] for e in folder.events() if e["event"] == "checkpoint"][-1]
    train(tmp_path, config, files, stop_after=0)
    assert [e["step"] for e in folder.events() if e["event"] == "start"][-1] == saved


def test_what_a_killed_save_left_behind_is_cleared(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    files, runs = world
    config = straight(runs[1])
    folder = create_run(tmp_path, config)
    left = folder.checkpoints / ".step-000000050.1-00.tmp"
    left.mkdir(parents=True)
    (left / "state.pt").write_bytes(b"half")
    assert train(tmp_path, config, files) == "done"
    assert not left.exists()


def test_a_torn_result_does_not_harm_its_trunk(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    store, files = store_with(tmp_path, world)
    trunk, branch = world[1][:2]
    (store / run_id(branch) / "result.json").write_text("{")
    assert train(store, trunk, files) == "done"
    with pytest.raises(StoreError, match="cannot be read"):
        train(store, branch, files)


def test_a_run_that_is_not_there_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert work(tmp_path, "nosuch", device="cpu", should_stop=lambda: False) == EXIT_FAILED
    assert "there is no run nosuch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_cannot_be_made_is_a_store_error(
    tmp_path: Path, world: tuple[TokenFiles, list[RunConfig]]
) -> None:
    folder = create_run(tmp_path, world[1][1])
    (folder.path / "leases").write_text("")
    with pytest.raises(StoreError, match="leases"), folder.claim():
        pass


@pytest.mark.parametrize("name", ["gpu", "cuda", "meta", "mps"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(InputError, match=f"device.*{name}"):
        choose_device(name)


@pytest.mark.parametrize(("before", "said"), [("SIG_DFL", "True"), ("SIG_IGN", "False")])
def test_a_terminal_that_closes_stops_a_worker_unless_nohup_says_otherwise(before: str, said: str) -> None:
    program = (
        "import os, signal; from llama_scale.training.worker import stop_on_signals;"
        f"signal.signal(signal.SIGHUP, signal.{before}); stop = stop_on_signals(os.getppid());"
        "os.kill(os.getpid(), signal.SIGHUP); print(stop())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == said


def test_a_second_interrupt_ends_a_worker_at_once() -> None:
    program = (
        "import os, signal; from llama_scale.training.worker import stop_on_signals;"
        "stop = stop_on_signals(os.getppid());"
        "os.kill(os.getpid(), signal.SIGINT); print(stop(), flush=True);"
        "os.kill(os.getpid(), signal.SIGINT); print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert done.returncode == -signal.SIGINT
