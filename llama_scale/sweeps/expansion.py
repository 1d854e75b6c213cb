"""From families to runs: a trunk at constant learning rate, and a decay branch for each end.

With a schedule that no trunk can share (cosine, linear, constant) each end is a run of its own.

Budgets are counted as 6ND with N the matmul parameters, as the laws that are fitted to them count
compute; what a run really costs is counted exactly from its shape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from llama_scale.architecture import ModelConfig
from llama_scale.checked import raise_all
from llama_scale.errors import InputError
from llama_scale.quantities import format_count, format_flops
from llama_scale.runs import Branch, RunConfig, run_id
from llama_scale.shapes import TOO_LARGE
from llama_scale.sweeps.designs import End, families, models_without_budget
from llama_scale.sweeps.spec import SweepSpec


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The runs of a recipe by their ids: trunks first, each branch after its trunk."""

    name: str
    spec: SweepSpec
    by_id: dict[str, RunConfig]

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        return tuple(self.by_id.values())

    @cached_property
    def own_steps(self) -> dict[str, int]:
        """Steps that each run takes itself: a trunk to its last branch point, a branch from there on."""
        last_branch: dict[str, int] = {}
        for run in self.by_id.values():
            if run.branch:
                last_branch[run.branch.parent] = max(last_branch.get(run.branch.parent, 0), run.branch.step)
        steps = {}
        for name, run in self.by_id.items():
            end = run.schedule.total_steps
            steps[name] = last_branch.get(name, 0) if end is None else end - run.first_step
        return steps

    @cached_property
    def own_flops(self) -> dict[str, float]:
        """Training FLOPs that each run spends itself."""
        return {name: run.train_flops(self.own_steps[name]) for name, run in self.by_id.items()}

    @cached_property
    def without_budget(self) -> tuple[ModelConfig, ...]:
        """Models that the recipe names and no budget meets: they are not fitted."""
        return models_without_budget(self.spec)

    @property
    def unshared_flops(self) -> float:
        """What the same design would cost if every run trained from its start."""
        return sum(run.train_flops(run.schedule.total_steps) for run in self.runs if run.schedule.total_steps)


def expand(name: str, spec: SweepSpec, corpus: str) -> Sweep:
    """The runs that `spec` means on the corpus with this sha256.

    Raises InputError that tells at once every model that cannot be built and every length that is too short
    for its warm-up and decay.
    """
    runs: dict[str, RunConfig] = {}
    errors: list[InputError] = []
    for family in families(spec):
        trunk = spec.training.run(
            family.tuned,
            role="trunk",
            model=family.model,
            data=spec.data,
            corpus=corpus,
            seed=family.seed,
        )
        parent, shares = run_id(trunk), spec.training.shares_trunks
        if shares:
            runs.setdefault(parent, trunk)
        for end in family.ends:
            try:
                branch = (
                    _branch(trunk, parent, end, spec.training.decay_fraction)
                    if shares
                    else _own_run(trunk, end)
                )
            except InputError as error:
                errors.append(error)
                continue
            runs.setdefault(run_id(branch), branch)
    raise_all([*errors, *_seen_tests(runs.values())])
    return Sweep(name=name, spec=spec, by_id=runs)


def _seen_tests(runs: Collection[RunConfig]) -> Iterator[InputError]:
    """A problem for each hold-out that is, but for its role, a run that is fitted."""
    fitted = {_curve(run) for run in runs if run.role == "train"}
    for run in runs:
        if run.role == "holdout" and _curve(run) in fitted:
            tokens = format_count((run.schedule.total_steps or 0) * run.tokens_per_step)
            yield InputError(
                f"the hold-out of width {run.model.width} on {tokens} tokens is also fitted: no test",
                hint="hold out another budget or length, such as four times the largest that is fitted",
            )


def _curve(run: RunConfig) -> RunConfig:
    """What decides the losses of a run: all but what it is for."""
    return replace(run, role="train", budget_flops=None)


def _own_run(trunk: RunConfig, end: End) -> RunConfig:
    """The run of one length with a schedule that cannot share a trunk."""
    total, warmup = _steps(trunk, end), trunk.schedule.warmup_steps
    if total <= warmup:
        raise _too_short(trunk, end, total, warmup + 1)
    return replace(
        trunk,
        role=end.role,
        schedule=replace(trunk.schedule, total_steps=total),
        budget_flops=end.budget_flops,
    )


def _branch(trunk: RunConfig, parent: str, end: End, decay_fraction: float) -> RunConfig:
    total = _steps(trunk, end)
    decay = max(1, round(total * decay_fraction))
    before = max(1, trunk.schedule.warmup_steps)
    if total - decay < before:
        raise _too_short(trunk, end, total, round(before / (1 - decay_fraction)) + 1)
    return replace(
        trunk,
        role=end.role,
        schedule=replace(trunk.schedule, total_steps=total, decay_steps=decay),
        branch=Branch(parent=parent, step=total - decay),
        budget_flops=end.budget_flops,
    )


def _steps(trunk: RunConfig, end: End) -> int:
    if end.tokens >= TOO_LARGE:
        raise InputError(
            f"a run on {end.tokens:g} tokens at width {trunk.model.width} never ends",
            hint=f"ask for a length or a budget that means fewer than {TOO_LARGE:g}",
        )
    return round(end.tokens / trunk.tokens_per_step)


def _too_short(trunk: RunConfig, end: End, total: int, fewest: int) -> InputError:
    tokens = 1.005 * fewest * trunk.tokens_per_step  # so that three digits of it are not too few
    if end.budget_flops is None:
        asked, least = f"{format_count(end.tokens)} tokens are", f"{format_count(tokens)} tokens"
    else:
        asked = f"a budget of {format_flops(end.budget_flops)} is"
        least = format_flops(6.0 * trunk.model.parameters.matmul * tokens)
    return InputError(
        f"{asked} {total} steps at width {trunk.model.width}: too few for {trunk.schedule.warmup_steps} "
        "steps of warm-up and a decay",
        hint=f"use at least {least} there, a smaller width or a shorter warm-up",
    )
