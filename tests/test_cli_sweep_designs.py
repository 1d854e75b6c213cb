"""Sweeps that end without a law: searches and over-training studies, on stores whose losses are known."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from recipes import write_recipe

from llama_scale.cli import main
from llama_scale.launch import prepare_sweep
from llama_scale.runs import RunConfig, create_run

SIZED = "widths=[16, 32], durations=[20000]"
LR = f"design={{kind='lr', {SIZED}, factors=[0.25, 0.5, 1, 2, 4]}}"
BATCH = f"design={{kind='batch', {SIZED}, batches_tokens=[32, 64, 128]}}"
OVERTRAIN = "design={kind='overtrain', widths=[8], tokens_per_parameter=[20, 100, 400]}"


def swept(home: Path, design: str, *words: str) -> str:
    """What the command says of a sweep whose runs have all ended with the losses of `loss`."""
    recipe, store = write_recipe(home), home / "runs"
    for config in prepare_sweep(recipe, store=store, overrides=[design], device="cpu").sweep.runs:
        folder, steps = create_run(store, config), config.schedule.total_steps
        if steps:
            found = {"loss_nats": loss(config), "bits_per_byte": 1.0, "tokenizer": "t"}
            folder.write_result({"status": "done", "steps": steps, **found})
    result = CliRunner().invoke(main, ["sweep", str(recipe), "--set", design, "--store", str(store), *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def loss(config: RunConfig) -> float:
    """Best at a rate x width of .128 for width 16 and 4 times that for width 32, at batches of 64."""
    best = 0.128 * (4 if config.model.width == 32 else 1)
    rate = math.log(config.optimizer.learning_rate * config.model.width / best)
    batch = math.log(config.tokens_per_step / 64)
    tokens = (config.schedule.total_steps or 0) * config.tokens_per_step
    return 3 + 0.01 * rate**2 + 0.01 * batch**2 + (tokens / config.model.parameters.matmul) ** -0.5


def test_an_lr_search_names_the_best_rate_of_each_model(tmp_path: Path) -> None:
    said = swept(tmp_path, LR)
    assert "the best learning rate is 0.008." in said
    assert "the best learning rate is 0.016; it is the last that was tried" in said
    assert said.count("\n>") == 2


def test_a_batch_search_names_the_best_batch(tmp_path: Path) -> None:
    assert "the best batch is 64 tokens." in swept(tmp_path, BATCH)


def test_an_overtraining_study_shows_what_more_tokens_bring(tmp_path: Path) -> None:
    said = swept(tmp_path, OVERTRAIN)
    assert said.startswith("From 20 to 400 tokens per parameter")
    assert f"{20**-0.5 + 3:.2f}" in said and f"{400**-0.5 + 3:.2f}" in said


@pytest.mark.parametrize("design", [LR, OVERTRAIN])
def test_seeds_are_told_apart_and_compared_with_their_own(tmp_path: Path, design: str) -> None:
    once = swept(tmp_path / "once", design)
    said = swept(tmp_path / "twice", design.replace("}", ", seeds=2}"))
    assert "seed 0" in said and "seed 1000" in said and "seed 0" not in once
    assert said.count("the best learning rate is 0.016; it is the last") == (2 if design == LR else 0)
    changes = [line.split()[-1] for line in once.splitlines() if re.search(r"[+-]0\.\d{4}$", line)]
    again = [line.split()[-1] for line in said.splitlines() if re.search(r"[+-]0\.\d{4}$", line)]
    assert sorted(again) == sorted(changes * 2) and changes


def test_a_hold_out_of_another_size_is_told_apart_too(tmp_path: Path) -> None:
    said = swept(tmp_path, OVERTRAIN.replace("}", ", holdouts=[{width=16, tokens_per_parameter=100}]}"))
    assert "tokens per parameter the loss of 3.06K parameters went from" in said
    assert "At 100 tokens per parameter the loss of 7.41K parameters was 3.1000 nats per token." in said
    assert re.search(r"^ *7\.41K +100 .* –$", said, re.MULTILINE)


def test_a_learning_rate_that_diverges_is_an_outcome(tmp_path: Path) -> None:
    """Really trained: its trunk ends long before the branch would, and nothing waits for it or fails."""
    recipe, store = write_recipe(tmp_path), tmp_path / "runs"
    design = "design={kind='lr', widths=[8], durations=[5000], learning_rates=[1e-3, 1e-2, 1e12]}"
    words = ["sweep", str(recipe), "--set", design, "--store", str(store), "--device", "cpu"]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    *_, diverged = found["outcome"]
    assert found["failed"] == [] and [run["status"] for run in found["outcome"]] == [
        "done",
        "done",
        "diverged",
    ]
    assert diverged["loss_nats"] is None and diverged["tokens"] == found["outcome"][0]["tokens"]
    said = CliRunner().invoke(main, words).stdout
    assert "the best learning rate is 0.01." in said  # and not the last that was tried
    assert re.search(r"1e12 +diverged", said)


@pytest.mark.parametrize(("design", "count"), [(LR, 10), (BATCH, 6), (OVERTRAIN, 3)])
def test_the_outcome_is_in_the_json(tmp_path: Path, design: str, count: int) -> None:
    found: dict[str, Any] = json.loads(swept(tmp_path, design, "--json"))
    assert found["failed"] == [] and len(found["outcome"]) == count
    assert all(run["learning_rate"] > 0 and run["batch_tokens"] > 0 for run in found["outcome"])
