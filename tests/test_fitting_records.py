"""Rows and curves of our own stores: what counts, by which convention, and losses along runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from llama_scale.architecture import llama
from llama_scale.fitting import gather
from llama_scale.fitting.records import WARM_UPS, curves_of_store, rows_of_records
from llama_scale.laws import published
from llama_scale.runs import (
    Branch,
    DataConfig,
    EventLog,
    OptimizerConfig,
    RunConfig,
    RunFolder,
    RunRole,
    ScheduleConfig,
    create_run,
    load_records,
    read_records,
    run_id,
)

RESULTS = Path(__file__).parents[1] / "sweeps" / "results"
WARM_UP, STEPS, EVERY = 10, 400, 5


def config(width: int, role: RunRole, parent: str | None = None) -> RunConfig:
    return RunConfig(
        role=role,
        model=llama(2, width, heads=2, hidden=2 * width, vocabulary=256, context=64),
        data=DataConfig(vocabulary=256),
        corpus="c",
        optimizer=OptimizerConfig(learning_rate=1e-3),
        schedule=ScheduleConfig(
            kind="wsd", total_steps=None if role == "trunk" else STEPS, warmup_steps=WARM_UP, decay_steps=20
        ),
        sequences_per_step=8,
        seed=0,
        branch=Branch(parent=parent, step=STEPS - 20) if parent else None,
    )


def write_run(store: Path, settings: RunConfig, finished: bool) -> None:
    """A run whose loss follows a law of its size and tokens, with a bump while the rate warms up."""
    folder = create_run(store, settings)
    size = settings.model.parameters.matmul
    with folder.claim() as lease, closing(EventLog(folder, lease)) as log:
        for step in range(EVERY, STEPS + 1, EVERY):
            loss = float(published().law.loss(1e3 * size, 1e4 * step * settings.tokens_per_step))
            log.append("train", step=step, loss_nats=loss + (1.0 if step <= WARM_UP else 0.0))
    if finished:
        folder.write_result(
            {"status": "done", "steps": STEPS, "loss_nats": 3.0, "bits_per_byte": 2.0, "tokenizer": "t"}
        )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Four trunks, each with one finished branch: one duration a size."""
    for width in (16, 32, 64, 128):
        trunk = config(width, "trunk")
        write_run(tmp_path, trunk, finished=False)
        write_run(tmp_path, config(width, "train", run_id(trunk)), finished=True)
    return tmp_path


def test_curves_are_those_of_trunks_after_their_warm_up(store: Path) -> None:
    records = read_records(store)
    curves = curves_of_store(store, records, "matmul")
    assert {curve.run for curve in curves} == {r.run for r in records if r.role == "trunk"}
    for curve in curves:
        assert curve.tokens.min() > WARM_UPS * WARM_UP * 8 * 64
        assert (np.diff(curve.loss) < 0).all()
        assert curve.flops_per_token > 6 * 0.8 * curve.parameters


def test_a_trunk_that_diverged_gives_no_curve(store: Path) -> None:
    trunk = run_id(config(64, "trunk"))
    RunFolder(store / trunk).write_result({"status": "diverged", "steps": STEPS, "loss_nats": None})
    curves = curves_of_store(store, read_records(store), "matmul")
    assert len(curves) == 3 and trunk not in {curve.run for curve in curves}


def test_gathering_a_store_of_one_duration_a_size_brings_curves_along(store: Path) -> None:
    found = gather(store)
    assert len(found) == 4
    assert len(found.curves) == 4
    assert {e.reason for e in found.exclusions} == {
        "a trunk at constant learning rate: its loss is not decayed"
    }


def test_finished_runs_of_several_durations_need_no_curves() -> None:
    assert gather(load_records(RESULTS / "default-seed0.json")).curves == ()


def test_records_carry_every_count() -> None:
    records = load_records(RESULTS / "default-seed0.json")
    for row in rows_of_records(records, source="records").rows:
        assert set(row.counts) == {"total", "non_embedding", "matmul"}
        assert row.parameters == row.counts["matmul"]


def test_an_export_reads_as_the_store_does(store: Path, tmp_path: Path) -> None:
    export = RESULTS / "default-seed0.json"
    by_file, by_record = gather(export), gather(load_records(export))
    assert by_file.names == by_record.names
    assert by_file.loss.tolist() == by_record.loss.tolist()
    twice = gather([export, export])
    assert twice.names == by_file.names
    assert sum("the same run is in" in e.reason for e in twice.exclusions) == 38
