"""What a sweep is expected to take: measured where its device is, else from the table and labelled so."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from recipes import write_recipe

from llama_scale.hardware import accelerator
from llama_scale.launch.estimates import LOG_BYTES, MEASURED, StepTimes, disk_bytes, step_time, step_times
from llama_scale.runs import RunConfig
from llama_scale.sweeps import Sweep, expand, load_recipe

GRID = [
    "design={kind='grid', sizes=['1M','2M','3M','5M','8M','13M','20M','30M','1B'], durations=['4M']}",
    "shape={context=128}",
]


class Stopwatch:
    """A machine of a known speed that counts what it is asked to try."""

    def __init__(self, flops_per_second: float) -> None:
        self.flops_per_second, self.tried = flops_per_second, list[RunConfig]()

    def __call__(self, config: RunConfig) -> float:
        self.tried.append(config)
        return config.train_flops(1) / self.flops_per_second


@pytest.fixture
def grid(tmp_path: Path) -> Sweep:
    return expand("grid", load_recipe(str(write_recipe(tmp_path)), GRID), "0" * 64)


def timed(sweep: Sweep, measure: Stopwatch | None) -> StepTimes:
    return step_times(sweep, device="cpu", threads=1, measure=measure)


def test_a_few_models_are_measured_and_the_rest_follow(grid: Sweep) -> None:
    watch = Stopwatch(1e10)
    times = timed(grid, watch)
    assert len(watch.tried) == MEASURED and times.is_measured and times.parallel is None
    for run, config in grid.by_id.items():
        assert times.seconds[run] == pytest.approx(config.train_flops(1) / 1e10, rel=0.2)
    assert "6 of 9 models; 3 larger ones extrapolated" in times.source


def test_a_model_too_large_for_this_machine_is_never_tried(grid: Sweep) -> None:
    watch = Stopwatch(1e10)
    timed(grid, watch)
    assert max(config.model.parameters.total for config in watch.tried) < 1e8
    large = {r: c for r, c in grid.by_id.items() if c.model.parameters.total > 5e8}
    only = Sweep(name="large", spec=grid.spec, by_id=large)
    watch = Stopwatch(1e10)
    times = timed(only, watch)
    assert not watch.tried and not times.is_measured and "guess" in times.source


def test_without_measuring_long_runs_are_still_told_from_short_ones(grid: Sweep) -> None:
    times = timed(grid, None)
    by_flops = sorted(grid.by_id, key=lambda run: grid.by_id[run].train_flops(1))
    seconds = [times.seconds[run] for run in by_flops]
    assert seconds[-1] > 50 * seconds[0] > 0 and not times.is_measured
    assert "guess" in times.source


def test_an_accelerator_that_is_not_here_is_estimated_from_its_table(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path))
    machine = "machine={accelerator='h100', accelerators=8}"
    sweep = expand("grid", load_recipe(recipe, [*GRID, machine]), "0" * 64)
    watch = Stopwatch(1.0)
    times = timed(sweep, watch)
    assert not watch.tried and not times.is_measured and times.parallel == 8
    assert times.source.startswith("an estimate, as H100-SXM is not here") and "MFU" in times.source
    assert times.source.endswith("; runs in 32 bits take several times as long")
    for run, config in sweep.by_id.items():
        mfu = config.train_flops(1) / times.seconds[run] / accelerator("h100").peak()
        assert 0.3 < mfu < 0.5


def with_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A real program in place of nvidia-smi, which knows one card."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\necho 0, GPU-aa, 80000, {name}\n")
    driver.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("NVIDIA H100 80GB HBM3", "a guess from FLOPs"),
        ("NVIDIA TITAN X", "a guess from FLOPs as of H100-SXM, for no table has NVIDIA TITAN X"),
    ],
)
def test_a_guess_for_a_card_that_no_table_has_says_of_which_it_is(
    grid: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: str, said: str
) -> None:
    with_card(tmp_path, monkeypatch, card)
    large = max(grid.runs, key=lambda run: run.train_flops(1))
    dear = replace(large, sequences_per_step=10_000_000)
    assert step_time(dear, device="cuda", threads=1, measure=Stopwatch(1.0))[1] == said
    times = step_times(grid, device="cuda", threads=1, measure=None)
    assert times.source == f"{said}; the live view corrects it"


def test_a_card_that_is_hidden_is_not_what_trains_here(
    grid: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else steps of models that only it could afford would be tried on the cores."""
    with_card(tmp_path, monkeypatch, "NVIDIA H100 80GB HBM3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden, cores = (
        step_times(grid, device=device, threads=1, measure=None).seconds for device in ("auto", "cpu")
    )
    assert hidden == cores


def test_what_a_cluster_trains_is_estimated_from_its_table_though_such_a_card_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_card(tmp_path, monkeypatch, "NVIDIA H100 80GB HBM3")
    machine = "machine={accelerator='h100', accelerators=8}"
    sweep = expand("grid", load_recipe(str(write_recipe(tmp_path)), [*GRID, machine]), "0" * 64)
    here, there = (
        step_times(sweep, device="auto", threads=1, measure=None, elsewhere=elsewhere)
        for elsewhere in (False, True)
    )
    assert here.parallel is None and there.parallel == 8
    assert there.source.startswith("an estimate for H100-SXM: its bf16 peak")


def test_a_trunk_is_planned_with_the_disk_of_its_branch_points(grid: Sweep) -> None:
    trunk = next(c for c in grid.runs if c.role == "trunk")
    branch = next(c for c in grid.runs if c.role == "train")
    total = trunk.model.parameters.total
    assert disk_bytes(trunk, 0, branch_points=3) == 5 * 12 * total + LOG_BYTES
    assert disk_bytes(branch, 1000) == pytest.approx(28 * total, abs=50_000)
