"""Designs: the runs that grids, over-training studies, searches, seeds and predicted sizes mean."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest

from llama_scale.config import load_toml
from llama_scale.errors import InputError
from llama_scale.laws import published, published_names
from llama_scale.runs import RunConfig
from llama_scale.sweeps import IsoFlop, Sweep, SweepSpec, expand

BASE = """
purpose = "A design"
[data]
vocabulary = 4096
[shape]
context = 256
[training]
learning_rate_times_width = 0.5
batch_tokens = "16k"
warmup_steps = 10
[design]
"""
PREDICTED = 'budgets_flops = ["1e16", "3e16", "1e17", "3e17"]\n'


def planned(tmp_path: Path, design: str, *overrides: str) -> Sweep:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(BASE + design)
    return expand("x", load_toml(recipe, SweepSpec, overrides=overrides), "0" * 64)


def ended(sweep: Sweep) -> list[RunConfig]:
    return [run for run in sweep.runs if run.role != "trunk"]


def ratio(run: RunConfig) -> float:
    return (run.schedule.total_steps or 0) * run.tokens_per_step / run.model.parameters.matmul


def test_a_grid_trains_every_size_for_every_duration_from_one_trunk(tmp_path: Path) -> None:
    sweep = planned(tmp_path, 'kind = "grid"\nsizes = ["3M", "10M", "30M"]\ndurations = ["100M", "400M"]')
    assert Counter(run.role for run in sweep.runs) == {"trunk": 3, "train": 6}
    sizes = {run.model.parameters.total for run in sweep.runs}
    assert sorted(sizes) == pytest.approx([3e6, 10e6, 30e6], rel=0.1)
    for run in ended(sweep):
        tokens = (run.schedule.total_steps or 0) * run.tokens_per_step
        assert min(abs(tokens / 1e8 - 1), abs(tokens / 4e8 - 1)) < 0.001
        assert run.tokens_per_step == 62 * 256
    assert sum(sweep.own_flops.values()) < 0.9 * sweep.unshared_flops


def test_a_grid_may_be_of_ratios_and_of_named_shapes(tmp_path: Path) -> None:
    shapes = "[{layers=4, width=128}, {layers=8, width=128, heads=4, kv_heads=2}]"
    sweep = planned(tmp_path, f'kind = "grid"\nshapes = {shapes}\ntokens_per_parameter = [20, 80]')
    assert sorted(ratio(run) for run in ended(sweep)) == pytest.approx([20, 20, 80, 80], rel=0.01)
    assert {(r.model.layers, r.model.kv_heads) for r in sweep.runs} == {(4, 1), (8, 2)}


@pytest.mark.parametrize(
    ("design", "kind"),
    [
        ('sizes = ["3M", "10M"]\ntokens_per_parameter = [20, 40]', "grid"),
        ('sizes = ["3M"]\ntokens_per_parameter = [20]', "grid"),
        ('sizes = ["3M"]\ntokens_per_parameter = [20]\nfactors = [1, 2]', "lr"),
        ('sizes = ["3M"]\ntokens_per_parameter = [5, 80]\nbudgets_flops = [1e16]', "isoflop"),
    ],
)
def test_a_design_without_a_kind_is_one_that_can_be(tmp_path: Path, design: str, kind: str) -> None:
    """Tokens per parameter, which all kinds know, are a grid's where no budgets stand beside them."""
    (tmp_path / "recipe.toml").write_text(BASE + design)
    assert load_toml(tmp_path / "recipe.toml", SweepSpec).design.kind == kind


def test_an_overtrain_study_goes_to_ten_thousand_tokens_a_parameter(tmp_path: Path) -> None:
    ratios = [20, 100, 1000, 10_000]
    sweep = planned(tmp_path, f'kind = "overtrain"\nsizes = ["2M"]\ntokens_per_parameter = {ratios}')
    assert [ratio(run) for run in ended(sweep)] == pytest.approx(ratios, rel=0.01)
    assert len(sweep.runs) == 5


def test_an_lr_search_has_a_trunk_for_each_rate_and_is_never_fitted(tmp_path: Path) -> None:
    design = 'kind = "lr"\nsizes = ["3M", "10M"]\ntokens_per_parameter = [20]\nfactors = [0.5, 1, 2]'
    sweep = planned(tmp_path, design)
    assert Counter(run.role for run in sweep.runs) == {"trunk": 6, "search": 6}
    rates = [run.optimizer.learning_rate * run.model.width for run in ended(sweep)]
    assert sorted(rates) == pytest.approx([0.25, 0.25, 0.5, 0.5, 1.0, 1.0])


def test_a_batch_search_moves_the_learning_rate_with_the_root_of_the_batch(tmp_path: Path) -> None:
    design = 'kind = "batch"\nsizes = ["3M"]\ndurations = ["50M"]\nbatches_tokens = ["4k", "16k", "64k"]'
    sweep = planned(tmp_path, design)
    found = {run.tokens_per_step: run.optimizer.learning_rate * run.model.width for run in ended(sweep)}
    assert list(found) == [16 * 256, 62 * 256, 250 * 256]  # whole sequences of 256
    assert list(found.values()) == pytest.approx([0.5 * math.sqrt(batch / 62) for batch in (16, 62, 250)])


@pytest.mark.parametrize("law", published_names())
def test_predicted_sizes_enclose_the_minimum_of_every_budget(tmp_path: Path, law: str) -> None:
    sweep = planned(tmp_path, PREDICTED, f"design.law={law}")
    fit = published(law)
    assert isinstance(sweep.spec.design, IsoFlop)
    for budget in sweep.spec.design.budgets_flops:
        met = [run for run in ended(sweep) if run.budget_flops == budget]
        losses = {
            run.model.parameters.matmul: float(
                fit.law.loss(
                    run.model.parameters.by(fit.convention), budget / 6 / run.model.parameters.matmul
                )
            )
            for run in met
        }
        in_order = [losses[size] for size in sorted(losses)]
        assert 5 <= len(in_order) <= 9
        assert 2 <= in_order.index(min(in_order)) <= len(in_order) - 3


def test_minima_stay_inside_where_the_prediction_is_off_by_a_factor_of_two(tmp_path: Path) -> None:
    sweep = planned(tmp_path, PREDICTED)
    law = published().law
    for budget in (1e16, 3e16, 1e17, 3e17):
        sizes = sorted(r.model.parameters.total for r in ended(sweep) if r.budget_flops == budget)
        best = float(law.compute_optimum(budget).parameters)
        assert sizes[0] < best / 2 and 2 * best < sizes[-1]


def test_neighbouring_budgets_share_predicted_sizes(tmp_path: Path) -> None:
    sweep = planned(tmp_path, PREDICTED)
    met = Counter(run.model for run in ended(sweep))
    assert max(met.values()) >= 3
    assert sum(sweep.own_flops.values()) < 0.85 * sweep.unshared_flops


def test_a_budget_without_room_for_smaller_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model of about|fewer than 2 smaller"):
        planned(tmp_path, 'budgets_flops = ["1e10", "2e10"]')
    with pytest.raises(InputError, match=r"1e10 FLOPs have their predicted optimum .* fewer than 2 smaller"):
        planned(tmp_path, 'budgets_flops = ["1e10", "1e16"]')


NAMED = "widths = [128, 256, 512]\nrepeats = [512]\ntokens_per_parameter = [1, 500]\nbudgets_flops = "


def test_a_model_that_no_budget_meets_is_left_out_whole_and_named(tmp_path: Path) -> None:
    sweep = planned(tmp_path, f'{NAMED}["3e14", "6e14"]')
    assert {run.model.width for run in sweep.runs} == {128, 256}
    assert [model.width for model in sweep.without_budget] == [512]
    alone = NAMED.replace("widths = [128, 256, 512]", "widths = [128, 256]")
    repeated = planned(tmp_path, f'{alone}["3e14", "6e14"]')
    assert [model.width for model in repeated.without_budget] == [512]
    assert all(sweep.own_steps.values())
    holdout = "design.holdouts=[{width=512, budget_flops='3e15'}]"
    with_test = planned(tmp_path, f'{NAMED}["3e14", "6e14"]', holdout)
    assert Counter(run.role for run in with_test.runs if run.model.width == 512) == {"trunk": 1, "holdout": 1}


def test_a_budget_that_meets_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model meets the budget of 1,000 FLOPs") as refusal:
        planned(tmp_path, f'{NAMED}["1e3", "6e14"]')
    assert "asks for 1 to 500" in refusal.value.message
    with pytest.raises(InputError, match="budget of 1,000 FLOPs") as refusal:
        planned(tmp_path, f'{NAMED}["1e3", "1e30"]')
    assert "budget of 1e30 FLOPs" in refusal.value.message


@pytest.mark.parametrize("test", ["width=256, budget_flops='6e14'", "width=256, tokens='15.19M'"])
def test_a_hold_out_that_is_fitted_too_is_refused(tmp_path: Path, test: str) -> None:
    with pytest.raises(InputError, match=r"hold-out of width 256 on 15\.2M tokens is also fitted"):
        planned(tmp_path, f'{NAMED}["3e14", "6e14"]', f"design.holdouts=[{{{test}}}]")


@pytest.mark.parametrize("kind", ["kind='lr', factors=[1, 2]", "kind='batch', batches_tokens=['16k']"])
def test_a_search_holds_nothing_out(tmp_path: Path, kind: str) -> None:
    test = "holdouts=[{width=256, tokens='10M'}]"
    with pytest.raises(InputError, match="runs of a search are never fitted"):
        planned(tmp_path, "", f"design={{{kind}, widths=[256], durations=['10M'], {test}}}")


def test_seeds_train_everything_but_hold_outs_again(tmp_path: Path) -> None:
    design = (
        'kind = "grid"\nsizes = ["3M", "10M"]\ntokens_per_parameter = [20, 40]\nseeds = 3\nrepeats = ["3M"]\n'
        'holdouts = [{size = "10M", tokens_per_parameter = 100}, {size = "20M", tokens = "1B"}]'
    )
    sweep = planned(tmp_path, design)
    assert Counter(run.role for run in sweep.runs) == {
        "trunk": 2 * 3 + 1 + 1,
        "train": 4 * 3 + 2,
        "holdout": 2,
    }
    assert {run.seed for run in sweep.runs} == {0, 1000, 2000, 3000}
    held_out = [run for run in sweep.runs if run.role == "holdout"]
    assert {run.seed for run in held_out} == {0}
    assert ratio(held_out[0]) == pytest.approx(100, rel=0.01)
    trunks = {run for run in sweep.by_id if sweep.by_id[run].role == "trunk"}
    assert held_out[0].branch and held_out[0].branch.parent in trunks


def test_hold_outs_of_a_model_of_their_own_are_tuned_together_in_any_order(tmp_path: Path) -> None:
    """By a rule that asks for the length, the first of them had decided the rate of all."""
    tests = ['{size = "20M", tokens = "100M"}', '{size = "20M", tokens = "10B"}']
    design = 'kind = "grid"\nsizes = ["3M"]\ntokens_per_parameter = [20]\nholdouts = [{}]'
    training = 'training={rule="step law"}'
    one, other = (planned(tmp_path, design.format(", ".join(t)), training) for t in (tests, tests[::-1]))
    assert one.by_id.keys() == other.by_id.keys()
    assert len({run.optimizer.learning_rate for run in one.runs if run.role == "holdout"}) == 1


@pytest.mark.parametrize("fraction", [1e-4, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("warmup", [0, 1, 10, 333])
def test_a_length_that_is_advised_is_long_enough(tmp_path: Path, warmup: int, fraction: float) -> None:
    settings = (f"training.warmup_steps={warmup}", f"training.decay_fraction={fraction}")
    design = 'kind = "grid"\nsizes = ["3M"]\ndurations = [{}]\n'
    with pytest.raises(InputError, match="too few for") as refusal:
        planned(tmp_path, design.format(10), *settings)
    (advised,) = re.findall(r"use at least (\S+) tokens", refusal.value.hint)
    (run,) = ended(planned(tmp_path, design.format(f'"{advised}"'), *settings))
    assert run.first_step >= max(1, warmup) and run.schedule.decay_steps >= 1


def test_the_seeds_of_repeats_are_seeds_that_train_takes_too(tmp_path: Path) -> None:
    design = 'kind = "grid"\nsizes = ["3M"]\ntokens_per_parameter = [20]\nseeds = 2\nrepeats = ["3M"]\n'
    sweep = planned(tmp_path, design, f"seed={2**32 - 1500}")
    assert {run.seed for run in sweep.runs} == {2**32 - 1500, 2**32 - 500, 500}


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
@pytest.mark.parametrize(
    "holdout",
    [
        "",
        'holdouts = [{ size = "3M", tokens_per_parameter = 40 }, { size = "6M", tokens_per_parameter = 40 }]',
    ],
)
def test_the_runs_that_are_too_many_are_those_that_would_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holdout: str, schedule: str
) -> None:
    """With trunks, repeats and hold-outs."""
    design = (
        'kind = "grid"\nsizes = ["3M", "4M"]\ntokens_per_parameter = [10, 20]\nseeds = 3\nrepeats = ["3M"]\n'
    )
    asked = tmp_path, design + holdout, f"training.schedule={schedule}"
    count = len(planned(*asked).runs)
    monkeypatch.setattr("llama_scale.sweeps.designs.MOST_RUNS", count)
    assert len(planned(*asked).runs) == count
    for most, way in ((count - 1, "lower design.seeds"), (5, "name fewer models")):
        monkeypatch.setattr("llama_scale.sweeps.designs.MOST_RUNS", most)
        with pytest.raises(InputError, match=f"means {count} runs, but") as refused:
            planned(*asked)
        assert refused.value.hint.startswith(way)


@pytest.mark.parametrize(
    ("design", "messages"),
    [
        ('kind = "grid"', ["names no models", "does not say how long"]),
        ('sizes = ["3M"]', ["budgets_flops is missing"]),
        ("budgets_flops = [1e16]\ntokens_per_parameter = [20]", ["= [20]: expected a list of 2"]),
        ("tokens_per_parameter = [20]\nseed = 3", ["names no models", "did you mean 'seeds'?"]),
        ('kind = "grid"\nsizes = ["1M"]\ndurations = [1e9]\ntokens_per_parameter = [2]', ["says twice how"]),
        ('kind = "overtrain"\nsizes = [1e6, 2e6]\ndurations = [1e9]', ["one model, but here are 2"]),
        ('kind = "overtrain"\nsizes = [1e6]\ntokens_per_parameter = [2e4]', ["beyond 10,000"]),
        ('kind = "lr"\nsizes = [1e6]\ndurations = [1e9]', ["needs learning rates"]),
        (
            'kind = "batch"\nsizes = [1e6]\ndurations = [1e9]\nbatches_tokens = []',
            ["batches_tokens is empty"],
        ),
        ("budgets_flops = []\nspread = 1", ["budgets_flops is empty", "spread is 1, but sizes"]),
        ('budgets_flops = ["1e16"]\nspread = 1e300', ["design.spread is 1e+300, but sizes"]),
        ('budgets_flops = ["1e16"]\nsizes_per_budget = 1_000_000', ["per_budget is 1e+06, but sizes"]),
        ("budgets_flops = [1e-300, 1e300]", ["no model has so few", "no model has as many"]),
        (
            "budgets_flops = [1e12, 1e30]\nspread = 1.1\nsizes_per_budget = 100",
            ["from 1e12 FLOPs to 1e30 FLOPs mean", " sizes, but a sweep has at most 1,000"],
        ),
        (
            'kind = "grid"\nsizes = ["3M"]\ntokens_per_parameter = [20, 40]\nseeds = 100_000',
            ["means 300,000 runs, but a sweep has at most 10,000"],
        ),
        (
            'kind = "grid"\nsizes = ["3M"]\ndurations = [1e9, 1e308]',
            ["1e+308 tokens at width 176 never ends"],
        ),
        ('kind = "grid"\nsizes = ["1M", "1k"]\ndurations = [1e3, 2e3]', ["no model of about 1,000 "]),
        (
            'kind = "grid"\nwidths = [128, 256]\ndurations = [1e4]',
            ["width 128: too", "width 256: too"],
        ),
        (
            'kind = "grid"\nwidths = [1e308]\nrepeats = [1e300]\ndurations = [1e9]',
            ["a model cannot be 1e+308 wide", "a model cannot be 1e+300 wide"],
        ),
        (
            'kind = "grid"\nshapes = [{ layers = 1e300, width = 64 }]\ndurations = [1e9]',
            ["layers is 1e+300, but must be more than 0 and below 1e+18"],
        ),
        (
            'kind = "grid"\nwidths = [64]\nrepeats = [64.5]\ndurations = [1e9]',
            ["design.repeats holds 64.5, but here it names widths"],
        ),
        (
            'kind = "batch"\nwidths = [64]\ndurations = [1e9]\nbatches_tokens = [64]\n'
            "learning_rate_exponent = 300",
            ["design.learning_rate_exponent is 300, but rates move"],
        ),
        ('kind = "grid"\nsizes = ["7 GiB"]\ndurations = [1e9]', ["'7 GiB' is bytes"]),
        ('kind = "grid"\nsizes = ["1M"]\ndurations = [1e9]\nsizes_per_budget = 3', ["not a known key"]),
    ],
)
def test_all_that_is_wrong_with_a_design_is_told(tmp_path: Path, design: str, messages: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        planned(tmp_path, design)
    for message in messages:
        assert message in refusal.value.message
    assert refusal.value.hint
