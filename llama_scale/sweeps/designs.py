"""From a design to families: a model, a seed, how it is trained, and where its runs end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from llama_scale.architecture import ModelConfig
from llama_scale.checked import all_of, raise_all
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.hyperparameters import Tuning
from llama_scale.quantities import format_flops, format_number
from llama_scale.runs import SEEDS, RunRole
from llama_scale.shapes import ExplicitShape, models_named
from llama_scale.sweeps.sizes import models_around_optima
from llama_scale.sweeps.spec import (
    BatchSearch,
    HoldoutSpec,
    IsoFlop,
    Lasting,
    LearningRateSearch,
    SweepSpec,
)

MOST_RUNS = 10_000  # more take minutes to plan, and folders to no end
SEED_STRIDE = 1_000  # between the seeds of repeats, so that sweeps of neighbouring base seeds share none


@frozen
class End:
    """Where a run of a family ends: after a budget of 6ND, or after so many tokens."""

    role: RunRole
    tokens: float
    budget_flops: float | None = None


@frozen
class Family:
    """Runs that share one trunk: the same model, seed, learning rate and batch, ending at several lengths."""

    model: ModelConfig
    seed: int
    tuned: Tuning
    ends: tuple[End, ...]


def families(spec: SweepSpec) -> list[Family]:
    """All families of a recipe, those that are fitted first; raises InputError with all that is wrong."""
    design = spec.design
    members = _members(spec)
    first = [family for model, ends in members for family in _tuned(spec, model, spec.seed, ends)]
    found = [*first]
    once_more = [(model, ends) for model in _repeat_models(spec) if (ends := _ends(spec, model))]
    for turn, (model, ends) in enumerate(once_more, start=design.seeds):
        found += _tuned(spec, model, _seed(spec, turn), ends)
    found = _with_holdouts(spec, found)
    once = _runs_of(spec, found)
    if (count := once + (design.seeds - 1) * _runs_of(spec, first)) > MOST_RUNS:
        raise InputError(
            f"the design means {count:,} runs, but a sweep has at most {MOST_RUNS:,}",
            hint="lower design.seeds" if once <= MOST_RUNS else "name fewer models, lengths or rates",
        )
    again = [
        family
        for turn in range(1, design.seeds)
        for model, ends in members
        for family in _tuned(spec, model, _seed(spec, turn), ends)
    ]
    return [*found[: len(first)], *again, *found[len(first) :]]


def _runs_of(spec: SweepSpec, found: list[Family]) -> int:
    """How many runs these families are, their trunks among them where they have one."""
    trunks = len(found) if spec.training.shares_trunks else 0
    return trunks + sum(len(family.ends) for family in found)


def _seed(spec: SweepSpec, turn: int) -> int:
    """That of a repeat: past the last seed it goes on from the first, so that `train` takes it too."""
    return (spec.seed + SEED_STRIDE * turn) % SEEDS


def models_without_budget(spec: SweepSpec) -> tuple[ModelConfig, ...]:
    """Models that an IsoFLOP design names, but which no budget gives the tokens that it asks for."""
    if isinstance(spec.design, IsoFlop) and spec.design.is_predicted:
        return ()
    named = dict.fromkeys((*_named(spec), *_repeat_models(spec)))
    return tuple(model for model in named if not _ends(spec, model))


def _members(spec: SweepSpec) -> list[tuple[ModelConfig, tuple[End, ...]]]:
    """Every model of the design once, with the ends of its runs, if there are any."""
    design = spec.design
    if isinstance(design, IsoFlop) and design.is_predicted:
        around = models_around_optima(design, spec.shape, vocabulary=spec.data.vocabulary)
        found = [(model, _budget_ends(design, model, budgets)) for model, budgets in around.items()]
    else:
        found = [(model, _ends(spec, model)) for model in _named(spec)]
    if isinstance(design, IsoFlop):
        raise_all(_unmet_budgets(design, found))
    return [(model, ends) for model, ends in found if ends]


def _named(spec: SweepSpec) -> list[ModelConfig]:
    """The models that a design names, each once."""
    design = spec.design
    return models_named(
        spec.shape,
        vocabulary=spec.data.vocabulary,
        widths=design.widths,
        sizes=design.sizes,
        shapes=design.shapes,
    )


def _unmet_budgets(
    design: IsoFlop, members: list[tuple[ModelConfig, tuple[End, ...]]]
) -> Iterator[InputError]:
    """A problem for each budget that gives no model as many tokens as the design asks for."""
    met = {end.budget_flops for _, ends in members for end in ends}
    low, high = (format_number(ratio) for ratio in design.tokens_per_parameter)
    for budget in design.budgets_flops:
        if budget not in met:
            ratios = [_budget_ratio(model, budget) for model, _ in members]
            least, most = (format_number(end(ratios), 2) for end in (min, max))
            given = least if least == most else f"{least} to {most}"
            yield InputError(
                f"no model meets the budget of {format_flops(budget)}: it gives them {given} tokens per "
                f"parameter, and design.tokens_per_parameter asks for {low} to {high}",
                hint="leave that budget out, name other models, or widen design.tokens_per_parameter",
            )


def _repeat_models(spec: SweepSpec) -> list[ModelConfig]:
    """The models to train once more, whether a budget gives them tokens or not."""
    again = spec.design.repeats
    if spec.design.widths:
        return all_of([lambda w=w: _model(spec, int(w), None) for w in again])
    return all_of([lambda s=s: _model(spec, None, s) for s in again])


def _model(
    spec: SweepSpec, width: int | None, size: float | None, shape: ExplicitShape | None = None
) -> ModelConfig:
    """A model by the one of its three names that is given."""
    vocabulary = spec.data.vocabulary
    [model] = models_named(spec.shape, vocabulary=vocabulary, widths=[width], sizes=[size], shapes=[shape])
    return model


def _ends(spec: SweepSpec, model: ModelConfig) -> tuple[End, ...]:
    design = spec.design
    if isinstance(design, IsoFlop):
        return _budget_ends(design, model, design.budgets_flops)
    role: RunRole = "search" if isinstance(design, (LearningRateSearch, BatchSearch)) else "train"
    return tuple(End(role=role, tokens=tokens) for tokens in _durations(design, model))


def _budget_ends(design: IsoFlop, model: ModelConfig, budgets: tuple[float, ...]) -> tuple[End, ...]:
    fewest, most = design.tokens_per_parameter
    return tuple(
        _budget_end("train", model, budget)
        for budget in budgets
        if fewest <= _budget_ratio(model, budget) <= most
    )


def _budget_ratio(model: ModelConfig, budget: float) -> float:
    """Tokens per parameter that a budget gives a model."""
    return budget / (6 * model.parameters.matmul**2)


def _budget_end(role: RunRole, model: ModelConfig, budget: float) -> End:
    return End(role=role, tokens=budget / (6.0 * model.parameters.matmul), budget_flops=budget)


def _durations(design: Lasting, model: ModelConfig) -> tuple[float, ...]:
    ratios = design.tokens_per_parameter
    return design.durations or tuple(ratio * model.parameters.matmul for ratio in ratios)


def _tuned(spec: SweepSpec, model: ModelConfig, seed: int, ends: tuple[End, ...]) -> Iterator[Family]:
    """The family of one model and seed, or one for each learning rate or batch that a search tries."""
    design, tuned = spec.design, spec.training.tuning(model, _middle(ends))
    sequences, rate = tuned.sequences_per_step, tuned.learning_rate
    tried = [(rate, sequences)]
    if isinstance(design, LearningRateSearch):
        rates = design.learning_rates or tuple(rate * factor for factor in design.factors)
        tried = [(tried_rate, sequences) for tried_rate in rates]
    elif isinstance(design, BatchSearch):
        batches = [max(1, round(tokens / model.context)) for tokens in design.batches_tokens]
        tried = [(rate * (batch / sequences) ** design.learning_rate_exponent, batch) for batch in batches]
    for learning_rate, batch in tried:
        one = replace(tuned, learning_rate=learning_rate, sequences_per_step=batch)
        yield Family(model=model, seed=seed, tuned=one, ends=ends)


def _middle(ends: tuple[End, ...]) -> float:
    """The tokens that a rule is asked about: the geometric mean, as runs of a trunk share rate and batch."""
    return math.exp(sum(math.log(end.tokens) for end in ends) / len(ends))


def _with_holdouts(spec: SweepSpec, found: list[Family]) -> list[Family]:
    """Hold-outs extend the first family of their model; those of other models make a family for each."""
    models = all_of([lambda h=h: _model(spec, h.width, h.size, h.shape) for h in spec.design.holdouts])
    tests: dict[ModelConfig, tuple[End, ...]] = {}
    for holdout, model in zip(spec.design.holdouts, models, strict=True):
        tests[model] = (*tests.get(model, ()), _holdout_end(holdout, model))
    for model, ends in tests.items():
        at = next((i for i, f in enumerate(found) if f.model == model and f.seed == spec.seed), None)
        if at is None:
            found += _tuned(spec, model, spec.seed, ends)
        else:
            found[at] = replace(found[at], ends=(*found[at].ends, *ends))
    return found


def _holdout_end(holdout: HoldoutSpec, model: ModelConfig) -> End:
    if holdout.budget_flops is not None:
        return _budget_end("holdout", model, holdout.budget_flops)
    ratio = holdout.tokens_per_parameter or 0.0
    return End(role="holdout", tokens=holdout.tokens or ratio * model.parameters.matmul)
