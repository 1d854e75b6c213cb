"""A sweep recipe and the runs that it means: known whole, with their cost, before anything trains.

An IsoFLOP design: every width is trained to every compute budget. With a WSD schedule the budgets of
one width share a trunk at constant learning rate, and each budget is a short decay branch from it.

Budgets are counted as 6ND with N the matmul parameters, as the laws that are fitted to them count
compute; what a run really costs is counted exactly from its shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from llama_scale.architecture import ModelConfig
from llama_scale.errors import InputError
from llama_scale.runs import Branch, DataConfig, OptimizerConfig, RunConfig, RunRole, ScheduleConfig, run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSpec:
    """What the models of a sweep share; width alone varies."""

    layers: int
    head_size: int
    hidden_ratio: float
    context: int
    tied_head: bool = False
    qk_norm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """How every member is trained. The peak learning rate is `learning_rate_times_width` / width."""

    learning_rate_times_width: float
    sequences_per_step: int
    warmup_steps: int = 100
    decay_fraction: float = 0.2
    initial_gain: float = 0.25
    beta2: float = 0.99
    weight_decay: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutSpec:
    """A run kept out of the fit, to test what the fit predicts."""

    width: int
    budget_flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignSpec:
    """Widths and budgets: all pairs whose tokens per parameter lie in the given range.

    `repeats` are widths trained again with another seed, to measure the noise.
    """

    widths: tuple[int, ...]
    budgets_flops: tuple[float, ...]
    tokens_per_parameter: tuple[float, float] = (0.0, 1e12)
    holdouts: tuple[HoldoutSpec, ...] = ()
    repeats: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """A recipe: one TOML file under sweeps/."""

    purpose: str
    shape: ShapeSpec
    training: TrainingSpec
    design: DesignSpec
    data: DataConfig = field(default_factory=DataConfig)
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The runs of a recipe: trunks first, each branch after its trunk."""

    name: str
    spec: SweepSpec
    runs: tuple[RunConfig, ...]

    @property
    def own_steps(self) -> dict[str, int]:
        """Steps that each run takes itself: a trunk to its last branch point, a branch from there on."""
        last_branch: dict[str, int] = {}
        for run in self.runs:
            if run.branch:
                last_branch[run.branch.parent] = max(last_branch.get(run.branch.parent, 0), run.branch.step)
        steps = {}
        for run in self.runs:
            name = run_id(run)
            end = run.schedule.total_steps
            steps[name] = last_branch.get(name, 0) if end is None else end - run.first_step
        return steps

    @property
    def own_flops(self) -> dict[str, float]:
        """Training FLOPs that each run spends itself."""
        steps = self.own_steps
        return {run_id(run): run.train_flops(steps[run_id(run)]) for run in self.runs}

    @property
    def unshared_flops(self) -> float:
        """What the same design would cost if every run trained from its start."""
        return sum(run.train_flops(run.schedule.total_steps) for run in self.runs if run.schedule.total_steps)


def recipe_names() -> list[str]:
    """The recipes that ship with llama-scale."""
    return sorted(path.name.removesuffix(".toml") for path in _recipes() if path.name.endswith(".toml"))


def find_recipe(name: str) -> Path:
    """The path of a recipe by name, or `name` itself if it is a file; raises InputError for neither."""
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return Path(name)
    for path in _recipes():
        if path.name == f"{name}.toml":
            return Path(str(path))
    raise InputError(
        f"there is no recipe called {name!r}",
        hint=f"use one of {', '.join(recipe_names())}, or the path of a TOML file",
    )


def _recipes() -> Iterator[Path]:
    return (Path(str(path)) for path in resources.files("llama_scale").joinpath("data/sweeps").iterdir())


def expand(name: str, spec: SweepSpec, corpus: str) -> Sweep:
    """The runs that `spec` means on the corpus with this sha256.

    Raises InputError for a budget that is too small for its warm-up and decay at some width, for a decay
    that is none or the whole run, and for a negative seed.
    """
    if not 0 < spec.training.decay_fraction < 1:
        raise InputError(
            f"training.decay_fraction is {spec.training.decay_fraction:g}, not between 0 and 1",
            hint="set training.decay_fraction to about 0.2",
        )
    if spec.seed < 0:
        raise InputError(f"seed is {spec.seed}, but seeds start at 0", hint="set seed to 0 or more")
    runs: dict[str, RunConfig] = {}
    for run in _runs(spec, corpus):
        runs.setdefault(run_id(run), run)
    return Sweep(name=name, spec=spec, runs=tuple(runs.values()))


def _runs(spec: SweepSpec, corpus: str) -> Iterator[RunConfig]:
    design = spec.design
    for width in design.widths:
        yield from _family(spec, corpus, width, spec.seed)
    for repeat, width in enumerate(design.repeats, start=1):
        yield from _family(
            replace(spec, design=replace(design, holdouts=())), corpus, width, spec.seed + 1000 * repeat
        )
    for width in sorted({h.width for h in design.holdouts} - set(design.widths)):
        yield from _family(replace(spec, design=replace(design, budgets_flops=())), corpus, width, spec.seed)


def _family(spec: SweepSpec, corpus: str, width: int, seed: int) -> Iterator[RunConfig]:
    """A trunk and its branches: the fitted budgets, then the hold-outs of this width."""
    trunk = _trunk(spec, corpus, width, seed)
    yield trunk
    fewest, most = spec.design.tokens_per_parameter
    parameters = trunk.model.parameters.matmul
    for budget in spec.design.budgets_flops:
        if fewest <= budget / (6 * parameters**2) <= most:
            yield _branch(trunk, "train", budget, spec.training.decay_fraction)
    for holdout in spec.design.holdouts:
        if holdout.width == width:
            yield _branch(trunk, "holdout", holdout.budget_flops, spec.training.decay_fraction)


def _trunk(spec: SweepSpec, corpus: str, width: int, seed: int) -> RunConfig:
    training = spec.training
    return RunConfig(
        role="trunk",
        model=model_of(spec, width),
        data=spec.data,
        corpus=corpus,
        optimizer=OptimizerConfig(
            learning_rate=training.learning_rate_times_width / width,
            beta2=training.beta2,
            weight_decay=training.weight_decay,
        ),
        schedule=ScheduleConfig(kind="wsd", total_steps=None, warmup_steps=training.warmup_steps),
        sequences_per_step=training.sequences_per_step,
        seed=seed,
        initial_gain=training.initial_gain,
    )


def _branch(trunk: RunConfig, role: RunRole, budget: float, decay_fraction: float) -> RunConfig:
    flops_per_step = 6.0 * trunk.model.parameters.matmul * trunk.tokens_per_step
    total = round(budget / flops_per_step)
    decay = round(total * decay_fraction)
    warmup = trunk.schedule.warmup_steps
    if decay < 1 or total - decay < max(1, warmup):
        smallest = flops_per_step * (round(warmup / (1 - decay_fraction)) + 1)
        raise InputError(
            f"a budget of {budget:.3g} FLOPs is {total} steps at width {trunk.model.width}: too few for "
            f"{warmup} steps of warm-up and a decay",
            hint=f"use at least {smallest:.2g} FLOPs there, a smaller width or a shorter warm-up",
        )
    return replace(
        trunk,
        role=role,
        schedule=replace(trunk.schedule, total_steps=total, decay_steps=decay),
        branch=Branch(parent=run_id(trunk), step=total - decay),
        budget_flops=budget,
    )


def model_of(spec: SweepSpec, width: int) -> ModelConfig:
    """The model of one width; raises InputError if heads of the given size do not fill it."""
    shape = spec.shape
    if width % shape.head_size:
        raise InputError(
            f"design.widths holds {width}, which is not a multiple of shape.head_size = {shape.head_size}",
            hint=f"use {width // shape.head_size * shape.head_size or shape.head_size} or another multiple",
        )
    heads = width // shape.head_size
    return ModelConfig(
        layers=shape.layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_size=shape.head_size,
        hidden=round(width * shape.hidden_ratio),
        vocabulary=spec.data.vocabulary,
        context=shape.context,
        tied_head=shape.tied_head,
        qk_norm=shape.qk_norm,
    )
