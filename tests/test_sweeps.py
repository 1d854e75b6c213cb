"""Recipes: what runs they mean, what those cost, and what is refused before anything trains."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_scale.config import load_toml
from llama_scale.errors import InputError
from llama_scale.launch.estimates import step_times
from llama_scale.launch.tasks import plan_tasks
from llama_scale.runs import RunConfig, run_id
from llama_scale.step_law import step_law_rate
from llama_scale.sweeps import (
    Grid,
    IsoFlop,
    Sweep,
    SweepSpec,
    TrainingSpec,
    expand,
    find_recipe,
    load_recipe,
    recipe_names,
)

CORPUS = "0" * 64


@pytest.fixture
def default() -> SweepSpec:
    return load_toml(find_recipe("default"), SweepSpec)


@pytest.fixture
def sweep(default: SweepSpec) -> Sweep:
    return expand("default", default, CORPUS)


def with_design(spec: SweepSpec, **changes: object) -> SweepSpec:
    return replace(spec, design=replace(spec.design, **changes))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_ships_can_be_planned(name: str) -> None:
    sweep = expand(name, load_recipe(name), CORPUS)
    assert len(sweep.runs) == len({run_id(run) for run in sweep.runs}) > 5


def test_every_budget_meets_at_least_four_sizes(sweep: Sweep) -> None:
    assert isinstance(sweep.spec.design, IsoFlop)
    for budget in sweep.spec.design.budgets_flops:
        sizes = {r.model.width for r in sweep.runs if r.role == "train" and r.budget_flops == budget}
        assert len(sizes) >= 4, budget


def test_a_budget_is_6nd_to_within_a_step(sweep: Sweep) -> None:
    for run in sweep.runs:
        if run.budget_flops:
            steps = run.schedule.total_steps or 0
            one_step = 6 * run.model.parameters.matmul * run.tokens_per_step
            assert abs(one_step * steps - run.budget_flops) <= one_step


def test_two_held_out_runs_lie_at_four_times_the_largest_fitted_budget(sweep: Sweep) -> None:
    fitted = max(r.budget_flops or 0 for r in sweep.runs if r.role == "train")
    held_out = [r for r in sweep.runs if r.role == "holdout"]
    assert len(held_out) >= 2
    assert all((r.budget_flops or 0) >= 4 * fitted for r in held_out)


def test_a_trunk_is_shared_by_the_branches_that_leave_it(sweep: Sweep) -> None:
    trunks = {run_id(r): r for r in sweep.runs if r.role == "trunk"}
    for run in sweep.runs:
        if run.branch:
            trunk = trunks[run.branch.parent]
            assert (trunk.model, trunk.seed, trunk.optimizer) == (run.model, run.seed, run.optimizer)
            assert run.branch.step == (run.schedule.total_steps or 0) - run.schedule.decay_steps
    assert sum(sweep.own_flops.values()) < 0.7 * sweep.unshared_flops


def test_steps_of_trunks_and_branches_add_up(sweep: Sweep) -> None:
    steps = sweep.own_steps
    for trunk in (r for r in sweep.runs if r.role == "trunk"):
        branches = [r for r in sweep.runs if r.branch and r.branch.parent == run_id(trunk)]
        assert steps[run_id(trunk)] == max(b.first_step for b in branches)
        for branch in branches:
            assert branch.first_step + steps[run_id(branch)] == branch.schedule.total_steps


def test_a_run_is_known_by_everything_that_decides_its_curve(sweep: Sweep) -> None:
    run = sweep.runs[0]
    changes: list[RunConfig] = [
        replace(run, seed=run.seed + 1),
        replace(run, corpus="1" * 64),
        replace(run, optimizer=replace(run.optimizer, beta2=0.95)),
        replace(run, model=replace(run.model, layers=3)),
    ]
    assert len({run_id(run), *(run_id(other) for other in changes)}) == 5


def test_a_trunk_keeps_its_name_when_budgets_are_added(default: SweepSpec) -> None:
    assert isinstance(default.design, IsoFlop)
    longer = with_design(default, budgets_flops=(*default.design.budgets_flops, 2.5e12), holdouts=())
    names = [
        {run_id(r) for r in expand("x", spec, CORPUS).runs if r.role == "trunk"} for spec in (default, longer)
    ]
    assert names[0] == names[1]


def test_a_budget_too_small_for_its_warm_up_is_refused(default: SweepSpec) -> None:
    small = with_design(default, budgets_flops=(1e9,), tokens_per_parameter=(0.0, 1e9))
    with pytest.raises(
        InputError, match=r"a budget of 1e9 FLOPs is \d+ steps at width 16: too few"
    ) as refusal:
        expand("x", small, CORPUS)
    assert re.search(r"use at least 6\.\d+e10 FLOPs", refusal.value.message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.decay_fraction=1", "decay_fraction is 1"),
        ("training.decay_fraction=0", "is 0"),
        ("training.learning_rate=1e-3", "both learning_rate and learning_rate_times_width"),
        ("training.sequences_per_step=0", "sequences_per_step is 0"),
        ("seed=-1", "seed is -1"),
        ("seed=99999999999999999999999", "seed is 99999999999999999999999"),
        ("design.kind=gird", 'design.kind is "gird", not one of isoflop, grid'),
        ("design.durations=[1e6]", "design.durations is not a known key"),
        ("design.sizes=[1e6]", "names its models twice"),
        ("design.tokens_per_parameter=[20, 10]", "from 20 down to 10"),
        ("shape.aspect_ratio=64", "both say how deep"),
        ("training.warmup_steps=-5", "warmup_steps is -5, but must be at least 0"),
        ("training.schedule=constant", "only runs whose learning rate decays are fitted"),
        ("data.evaluation_tokens=8", "evaluation_tokens is 8, fewer than one context of 64"),
        ("data.evaluation_tokens=-4", "evaluation_tokens is -4, fewer"),
        ("data.tokenizer=bytes", "vocabulary is 1024, but the byte tokenizer has 257"),
        ("data.vocabulary=100", "vocabulary is 100, but a BPE vocabulary starts from 256 bytes"),
        ("data.source=''", "a source of the text has no name"),
        ("machine={accelerator='H100-SXM', accelerators=-1}", "accelerators holds -1"),
        ("machine={accelerator='H100-SXM', accelerators=0}", "accelerators holds 0"),
        ("machine={accelerator='H1000'}", "unknown accelerator 'H1000'"),
        ("expected.train_flops=-4", "expected.train_flops holds -4"),
        ("design.holdouts=[{width=80}]", "needs one of budget_flops, tokens"),
    ],
)
def test_what_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("default", [override])


def test_a_card_that_has_no_bf16_is_not_planned_to_train_in_it() -> None:
    with pytest.raises(InputError, match="bf16, which T4 does not compute in"):
        load_recipe("one-gpu-night", ["machine.accelerator=t4"])
    assert load_recipe("one-gpu-night", ["machine.accelerator=t4", "training.precision=f32"])


def test_a_folder_of_a_recipes_name_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "default").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_recipe("default").name == "default.toml"


def test_a_width_that_heads_do_not_fill_is_refused(default: SweepSpec) -> None:
    with pytest.raises(InputError, match=r"40 is not a multiple of shape\.head_size = 16") as refusal:
        with_design(default, widths=(40, 48, 50))
    assert "use 32" in refusal.value.message and "width 50" in refusal.value.message


def test_mup_needs_heads_of_one_size(default: SweepSpec) -> None:
    tuned = replace(default.training, learning_rate=1e-3, learning_rate_times_width=None, mup_base_width=16)
    assert replace(default, training=tuned).training == tuned
    with pytest.raises(InputError, match="heads of 16 and 32 and 64"):
        replace(default, training=tuned, shape=replace(default.shape, head_size=None))


def test_every_error_of_a_recipe_is_told_at_once(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.toml"
    text = find_recipe("default").read_text()
    text = text.replace("head_size", "headsize").replace("layers = 2", 'layers = "two"')
    recipe.write_text(text.replace("decay_fraction = 0.2", "decay_fraction = 2\ninitial_gain = -1"))
    with pytest.raises(InputError) as refusal:
        load_toml(recipe, SweepSpec)
    told = f"{refusal.value.message} {refusal.value.hint}"
    for word in (
        "bad.toml",
        "shape.headsize",
        "head_size",
        "layers",
        "two",
        "fraction is 2",
        "gain is -1",
    ):
        assert word in told


FAULTY = """
purpose = "A recipe with a fault in every table, and several in most"
seed = -1
[data]
tokenizer = "bytes"
vocabulary = 256
evaluation_tokens = 8
[shape]
head_size = 16
context = 32
[training]
learning_rate_times_width = 0.1
sequences_per_step = 4
warmup_steps = -5
weight_decay = -0.1
beta1 = 1.0
beta2 = 2.0
mup_base_width = 16
optimizer = "muon"
[machine]
accelerator = "H1000"
accelerators = 0
[design]
widths = [16, 24, 40]
budgets_flops = ["3e9"]
holdouts = [{ width = 56, budget_flops = "2e10" }]
[expected]
train_flops = -4
seconds = 5
"""


def test_a_dozen_faults_of_several_tables_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "faulty.toml").write_text(FAULTY)
    with pytest.raises(InputError, match="has 15 problems") as refusal:
        load_recipe(str(tmp_path / "faulty.toml"))
    for word in (
        "seed is -1",
        "the byte tokenizer has 257",
        "evaluation_tokens is 8",
        "warmup_steps is -5",
        "weight_decay is -0.1",
        "beta1 is 1",
        "beta2 is 2",
        "training.optimizer is muon",
        "carries the rate of one width",
        "unknown accelerator",
        "accelerators holds 0",
        "width 24 is not",
        "width 40 is not",
        "width 56 is not",
        "train_flops holds -4",
    ):
        assert word in refusal.value.message


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    """Of recipes that ship, and of files beside it; a design of another kind takes the place of the whole."""
    (tmp_path / "mine.toml").write_text('base = "default"\npurpose = "mine"\n[shape]\nlayers = 4\n')
    wider = 'base = "mine"\n[design]\nkind = "grid"\nwidths = [96]\ndurations = ["1M"]\n'
    (tmp_path / "wider.toml").write_text(wider)
    default = load_recipe("default")
    mine, wide = (load_recipe(str(tmp_path / name)) for name in ("mine.toml", "wider.toml"))
    assert mine == replace(default, purpose="mine", shape=replace(default.shape, layers=4))
    assert wide == replace(mine, design=Grid(widths=(96,), durations=(1e6,)))


def test_a_base_without_a_kind_is_of_the_one_that_its_keys_fit(tmp_path: Path) -> None:
    """To say it too, in capitals or not, is no other kind: what the base names beside it is kept."""
    recipes = {
        "more": 'base = "default"\n[design]\nkind = "IsoFLOP"\nseeds = 2\n',
        "lasting": 'base = "lasting-base"\n[design]\nkind = "Grid"\nseeds = 2\n',
        "other": 'base = "lasting-base"\n[design]\nkind = "isoflop"\nbudgets_flops = [1e13]\n',
        "lasting-base": (find_recipe("default").read_text().split("[design]")[0])
        + '[design]\nwidths = [96]\ndurations = ["1M"]\n',
    }
    for name, text in recipes.items():
        (tmp_path / f"{name}.toml").write_text(text)
    more, lasting, other = (load_recipe(str(tmp_path / f"{n}.toml")).design for n in list(recipes)[:3])
    assert more == replace(load_recipe("default").design, seeds=2)
    assert lasting == Grid(widths=(96,), durations=(1e6,), seeds=2)
    assert other == IsoFlop(budgets_flops=(1e13,))


def test_a_base_that_cannot_be_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    for text, message in (
        ('base = "mine"', "its own base"),
        ('base = "nosuch"', "no recipe called 'nosuch'"),
        ("base = 3", "base is not text"),
    ):
        recipe.write_text(text)
        with pytest.raises(InputError, match=message):
            load_recipe(str(recipe))


def test_a_recipe_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(InputError, match="no recipe called 'defualt'") as refusal:
        find_recipe("defualt")
    assert "default" in refusal.value.hint


@pytest.mark.parametrize("name", recipe_names())
def test_what_a_recipe_states_is_what_it_takes(name: str) -> None:
    spec = load_recipe(name)
    sweep = expand(name, spec, CORPUS)
    assert spec.purpose and spec.expected
    assert sum(sweep.own_flops.values()) == pytest.approx(spec.expected.train_flops, rel=0.02)
    times = step_times(sweep, device="cpu", threads=1, measure=None)
    tasks = plan_tasks(Path("runs"), sweep, times.seconds)
    hours = sum(task.seconds for task in tasks) / (times.parallel or 2)
    # Of a recipe for this machine the guess is rough: it was measured, not computed.
    near = pytest.approx(spec.expected.seconds, rel=0.05 if spec.machine else 0.5)
    assert max(hours, *(task.path_seconds for task in tasks)) == near


def test_recipes_of_every_scale_ship() -> None:
    here = {name for name in recipe_names() if load_recipe(name).machine is None}
    assert here >= {"default", "twenty-minutes"}
    asked = {"one-gpu-night": 1, "eight-gpu-weekend": 8, "thousand-gpu-hours": 8, "overtraining": 1}
    for name, accelerators in asked.items():
        machine = load_recipe(name).machine
        assert machine and machine.accelerators == accelerators
        assert load_recipe(name).training.precision == "bf16"  # as their hours count
    node = load_recipe("thousand-gpu-hours").expected
    assert node and 8 * node.seconds / 3600 == pytest.approx(1_000, rel=0.05)


def test_the_longer_recipe_is_the_default_at_twice_the_budgets() -> None:
    longer, default = load_recipe("twenty-minutes"), load_recipe("default")
    shared = ("training", "shape", "data", "machine", "seed")
    assert all(getattr(longer, name) == getattr(default, name) for name in shared)
    assert isinstance(longer.design, IsoFlop) and isinstance(default.design, IsoFlop)
    budgets = longer.design.budgets_flops
    assert budgets == pytest.approx([2 * budget for budget in default.design.budgets_flops])
    assert [holdout.budget_flops for holdout in longer.design.holdouts] == [4 * max(budgets)] * 2


def test_a_rule_sets_rate_and_batch_by_size_and_tokens() -> None:
    sweep = expand("x", load_recipe("thousand-gpu-hours"), CORPUS)
    by_size: dict[int, RunConfig] = {}
    for trunk in (run for run in sweep.runs if run.role == "trunk"):
        by_size.setdefault(trunk.model.parameters.total, trunk)
    in_order = [by_size[size] for size in sorted(by_size)]
    rates = [run.optimizer.learning_rate for run in in_order]
    batches = [run.tokens_per_step for run in in_order]
    assert rates == sorted(rates, reverse=True) and batches[0] < batches[-1]
    # 200M on 10 to 160 tokens per parameter: 40 in the middle.
    middle = next(run for run in in_order if run.model.width == 896)
    tokens = 40 * middle.model.parameters.matmul
    expected = step_law_rate(middle.model.parameters.non_embedding, tokens)
    assert middle.optimizer.learning_rate == pytest.approx(expected, rel=1e-6)


def test_a_recipe_of_fixed_numbers_without_a_rate_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs one of learning_rate, learning_rate_times_width"):
        load_recipe("one-gpu-night", ["training={batch_tokens=1000, rule='fixed'}"])
    with pytest.raises(InputError, match=r"both learning_rate and learning_rate_times_width"):
        load_recipe("one-gpu-night", ["training={learning_rate=1e-3, learning_rate_times_width=1}"])


OLD_TRAINING = {"learning_rate_times_width": 0.128, "sequences_per_step": 8}


def trained_with(default: SweepSpec, **training: Any) -> SweepSpec:
    return replace(default, training=TrainingSpec(**training))


def test_fixed_numbers_mean_what_they_meant(default: SweepSpec) -> None:
    """The ids of runs planned before a recipe could say how to optimise."""
    runs = expand("x", trained_with(default, **OLD_TRAINING), CORPUS).runs
    assert {r.sequences_per_step for r in runs} == {8}
    assert {(r.optimizer.beta2, r.schedule.warmup_steps) for r in runs} == {(0.99, 100)}
    assert {r.optimizer.learning_rate * r.model.width for r in runs} == {0.128}
    named = expand("x", trained_with(default, rule="fixed", **OLD_TRAINING), CORPUS).runs
    assert [run_id(r) for r in named] == [run_id(r) for r in runs]


def test_what_is_left_out_comes_from_the_measured_rule(default: SweepSpec) -> None:
    runs = expand("x", trained_with(default), CORPUS).runs
    rates = {r.model.width: r.optimizer.learning_rate for r in runs}
    assert sorted(rates.values(), reverse=True) == [rates[width] for width in sorted(rates)]
    by_hand = expand("x", trained_with(default, learning_rate=1e-3, warmup_steps=7, beta2=0.9), CORPUS).runs
    assert {(r.optimizer.learning_rate, r.schedule.warmup_steps, r.optimizer.beta2) for r in by_hand} == {
        (1e-3, 7, 0.9)
    }


def test_every_setting_of_training_reaches_the_runs(default: SweepSpec) -> None:
    training = OLD_TRAINING | {
        "optimizer": "muon",
        "momentum": 0.9,
        "precision": "bf16",
        "z_loss": 1e-4,
        "recompute": "full",
        "micro_batch": 2,
        "decay_shape": "linear",
        "final_fraction": 0.1,
        "clip_norm": 0.5,
        "beta1": 0.8,
    }
    for run in expand("x", trained_with(default, **training), CORPUS).runs:
        assert (run.optimizer.kind, run.optimizer.momentum, run.precision) == ("muon", 0.9, "bf16")
        assert (run.z_loss, run.recompute, run.micro_batch) == (1e-4, "full", 2)
        assert (run.schedule.decay_shape, run.schedule.final_fraction) == ("linear", 0.1)
        assert (run.optimizer.clip_norm, run.optimizer.beta1) == (0.5, 0.8)


def test_schedules_that_share_nothing_make_runs_of_their_own(default: SweepSpec) -> None:
    wsd = expand("x", trained_with(default, **OLD_TRAINING), CORPUS)
    cosine = expand("x", trained_with(default, schedule="cosine", **OLD_TRAINING), CORPUS)
    assert not [r for r in cosine.runs if r.role == "trunk" or r.branch]
    ends = {(r.model.width, r.seed, r.schedule.total_steps) for r in wsd.runs if r.branch}
    assert {(r.model.width, r.seed, r.schedule.total_steps) for r in cosine.runs} == ends
    assert sum(cosine.own_flops.values()) == pytest.approx(cosine.unshared_flops)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"rule": "fixed"}, "learning_rate"),
        ({"mup_base_width": 32}, "carries the rate of one width"),
        ({"z_loss": -1.0}, "z_loss is -1"),
        ({"final_fraction": 1.0}, "final_fraction is 1"),
        ({"micro_batch": 0}, "micro_batch is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    default: SweepSpec, training: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        trained_with(default, **training)


def test_mup_refuses_what_it_has_no_rule_for(default: SweepSpec) -> None:
    mup = {"mup_base_width": 32, "learning_rate": 4e-3}
    assert expand("x", trained_with(default, **mup), CORPUS).runs[0].mup_base_width == 32
    with pytest.raises(InputError, match="muon"):
        trained_with(default, optimizer="muon", **mup)
    with pytest.raises(InputError, match="tied_head"):
        replace(trained_with(default, **mup), shape=replace(default.shape, tied_head=True))
