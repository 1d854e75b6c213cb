"""What a recipe may say: the tables of a TOML file under sweeps/, each checked where it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import field
from typing import Any, Literal

from llama_scale.architecture import ModelConfig
from llama_scale.checked import Checked, problems_in
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.hardware import Accelerator, accelerator
from llama_scale.hyperparameters import Rule, Tuning, tuning
from llama_scale.runs import (
    DataConfig,
    TrainingTable,
    mup_problems,
    seed_problems,
    text_problems,
)
from llama_scale.shapes import ExplicitShape, ShapeSpec, models_named

LARGEST_RATIO = 10_000  # tokens per parameter of an over-training study, as Sardana et al. 2024 went
SPREAD = 4.0  # sizes from the predicted optimum over this to this times it
AROUND = {"sizes_per_budget": (5, 100), "spread": (1.1, 1000.0)}  # within which a ladder of sizes has an end


@frozen
class TrainingSpec(TrainingTable):
    """How every member is trained.

    The peak learning rate is `learning_rate`, or `learning_rate_times_width` / width. A batch is
    `sequences_per_step`, or as many sequences as hold `batch_tokens`. A `rule` gives what is left out of
    rate, batch, beta2 and warm-up, by the size of each model and the tokens that it sees: "measured" on this
    trainer, "step law", or "fixed" numbers (`hyperparameters.py`). Where rate and batch are given it is
    "fixed" unless it is named, else "measured".

    With a `schedule` other than wsd every length is a run of its own. `mup_base_width` carries the rate of
    that width to all by muP.
    """

    rule: Rule | None = None
    learning_rate_times_width: float | None = None
    batch_tokens: int | None = None

    @property
    def shares_trunks(self) -> bool:
        """Whether runs of one model grow from a common trunk; else each is trained from its start."""
        return self.schedule == "wsd"

    @property
    def named_rule(self) -> Rule:
        """The rule that holds."""
        rate = self.learning_rate or self.learning_rate_times_width
        by_hand = rate is not None and (self.sequences_per_step or self.batch_tokens) is not None
        return self.rule or ("fixed" if by_hand else "measured")

    def tuning(self, model: ModelConfig, tokens: float) -> Tuning:
        """Rate, batch, beta2 and warm-up of `model` on `tokens`: by hand where given, else by the rule."""
        sequences, rate = self.sequences_per_step, self.learning_rate
        if sequences is None and self.batch_tokens is not None:
            sequences = max(1, round(self.batch_tokens / model.context))
        if rate is None and self.learning_rate_times_width is not None:
            rate = self.learning_rate_times_width / model.width
        return tuning(
            self.named_rule,
            model,
            tokens,
            learning_rate=rate,
            sequences_per_step=sequences,
            beta2=self.beta2,
            warmup_steps=self.warmup_steps,
        )

    def problems(self) -> Iterator[InputError]:
        yield from TrainingTable.problems(self)
        for names in (("learning_rate", "learning_rate_times_width"), ("sequences_per_step", "batch_tokens")):
            if self.rule == "fixed" or all(getattr(self, name) is not None for name in names):
                yield from _one_of("training", self, names)


@frozen
class HoldoutSpec(Checked):
    """A run kept out of the fit, to test what the fit predicts: a model, and how long it trains."""

    width: int | None = None
    size: float | None = None
    shape: ExplicitShape | None = None
    budget_flops: float | None = None
    tokens: float | None = None
    tokens_per_parameter: float | None = None

    def problems(self) -> Iterator[InputError]:
        yield from _positive("design.holdouts", self)
        yield from _one_of("design.holdouts", self, ("width", "size", "shape"))
        yield from _one_of("design.holdouts", self, ("budget_flops", "tokens", "tokens_per_parameter"))


@frozen
class Members(Checked):
    """What all designs share: the models, by one of three names, and the seeds that they are trained with.

    `sizes` are parameters, for which the nearest LLaMA-like shape is taken. `seeds` trains everything but
    the hold-outs so many times, `repeats` single widths or sizes once more each: both measure the noise.
    """

    widths: tuple[int, ...] = ()
    sizes: tuple[float, ...] = ()
    shapes: tuple[ExplicitShape, ...] = ()
    holdouts: tuple[HoldoutSpec, ...] = ()
    repeats: tuple[float, ...] = ()
    seeds: int = 1

    @property
    def names_models(self) -> bool:
        """Whether it says which models to train."""
        return bool(self.widths or self.sizes or self.shapes)

    def problems(self) -> Iterator[InputError]:
        yield from _positive("design", self)
        if sum(map(bool, (self.widths, self.sizes, self.shapes))) > 1:
            yield InputError(
                "design names its models twice", hint="keep one of design.widths, design.sizes, design.shapes"
            )
        if self.repeats and not (self.widths or self.sizes):
            yield InputError(
                "design.repeats names widths or sizes, but the design has neither",
                hint="use design.seeds = 2 to train all of it twice",
            )
        for width in self.repeats if self.widths else ():
            if width != int(width):
                yield InputError(
                    f"design.repeats holds {width:g}, but here it names widths, which are whole numbers",
                    hint=f"use {round(width)}",
                )


@frozen
class IsoFlop(Members):
    """Budgets x sizes: each budget meets small models trained long and large ones trained short.

    Budgets are 6ND, N the matmul parameters. Models that are named are trained to every budget that gives
    them `tokens_per_parameter` in that range. Where none is named, `sizes_per_budget` of them lie around the
    optimum that `law` predicts for each budget, from it over `spread` to `spread` times it, so that the
    minimum lies inside; neighbouring budgets share sizes, and so trunks.
    """

    kind: Literal["isoflop"] = "isoflop"
    budgets_flops: tuple[float, ...]
    tokens_per_parameter: tuple[float, float] = (0.0, 1e12)
    sizes_per_budget: int = 7
    spread: float = SPREAD
    law: str | None = None

    @property
    def is_predicted(self) -> bool:
        """Whether the sizes come from a law."""
        return not self.names_models

    def problems(self) -> Iterator[InputError]:
        yield from Members.problems(self)
        if not self.budgets_flops:
            yield InputError("design.budgets_flops is empty", hint='add budgets, such as "1e18 FLOPs"')
        for name, (least, most) in AROUND.items():
            if not least <= (given := getattr(self, name)) <= most:
                yield InputError(
                    f"design.{name} is {given:g}, but sizes show a minimum where it is {least:g} to {most:g}",
                    hint=f"correct design.{name}, or leave it out",
                )
        low, high = self.tokens_per_parameter
        if low > high:
            yield InputError(
                f"design.tokens_per_parameter runs from {low:g} down to {high:g}", hint="give the lower first"
            )


@frozen
class Lasting(Members):
    """Designs that say how long a model trains: tokens, or tokens per matmul parameter."""

    durations: tuple[float, ...] = ()
    tokens_per_parameter: tuple[float, ...] = ()

    def problems(self) -> Iterator[InputError]:
        yield from Members.problems(self)
        if not self.names_models:
            yield InputError(
                "design names no models", hint='add design.sizes = ["10M", "30M", "100M"], or design.widths'
            )
        if bool(self.durations) == bool(self.tokens_per_parameter):
            said = "says twice" if self.durations else "does not say"
            yield InputError(
                f"design {said} how long to train",
                hint='give one of design.durations = ["1B"] and design.tokens_per_parameter = [20]',
            )


@frozen
class Search(Lasting):
    """Designs whose runs are compared, not fitted: there is no law for a hold-out to test."""

    def problems(self) -> Iterator[InputError]:
        yield from Lasting.problems(self)
        if self.holdouts:
            yield InputError(
                "design.holdouts test a law, but runs of a search are never fitted",
                hint="leave design.holdouts out, or use them in an isoflop, grid or overtrain design",
            )


@frozen
class Grid(Lasting):
    """Sizes x durations: every model for every duration, all of a model from one trunk."""

    kind: Literal["grid"] = "grid"


@frozen
class Overtrain(Lasting):
    """One model, trained far beyond its compute optimum: how much does its loss still fall?"""

    kind: Literal["overtrain"] = "overtrain"

    def problems(self) -> Iterator[InputError]:
        yield from Lasting.problems(self)
        if (count := len(self.widths) + len(self.sizes) + len(self.shapes)) > 1:
            yield InputError(
                f"an overtrain design has one model, but here are {count}",
                hint='keep one of them, or use design.kind = "grid"',
            )
        beyond = [ratio for ratio in self.tokens_per_parameter if ratio > LARGEST_RATIO]
        if beyond:
            yield InputError(
                f"design.tokens_per_parameter goes up to {max(beyond):,.0f}, beyond {LARGEST_RATIO:,}",
                hint="ask for less, or name design.durations in tokens",
            )


@frozen
class LearningRateSearch(Search):
    """Learning rates x sizes x durations: `learning_rates`, or `factors` of the one that [training] gives."""

    kind: Literal["lr"] = "lr"
    learning_rates: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()

    def problems(self) -> Iterator[InputError]:
        yield from Search.problems(self)
        if bool(self.learning_rates) == bool(self.factors):
            yield InputError(
                "an lr design needs learning rates, said in one way",
                hint="give one of design.factors = [0.5, 1, 2] and design.learning_rates = [1e-3, 2e-3]",
            )


@frozen
class BatchSearch(Search):
    """Batch sizes x sizes x durations.

    The learning rate moves from that of [training]'s batch as (batch / its batch)^`learning_rate_exponent`;
    1/2 keeps the size of AdamW's noise (Malladi et al. 2022, arXiv 2205.10287).
    """

    kind: Literal["batch"] = "batch"
    batches_tokens: tuple[int, ...]
    learning_rate_exponent: float = 0.5

    def problems(self) -> Iterator[InputError]:
        yield from Search.problems(self)
        if not self.batches_tokens:
            yield InputError("design.batches_tokens is empty", hint='add batches, such as ["64k", "128k"]')
        if not 0 <= self.learning_rate_exponent <= 1:
            yield InputError(
                f"design.learning_rate_exponent is {self.learning_rate_exponent:g}, but rates move with the "
                "batch by 0 (not at all) to 1 (as fast)",
                hint="use 0.5, or leave it out",
            )


DesignSpec = IsoFlop | Grid | Overtrain | LearningRateSearch | BatchSearch


@frozen
class MachineSpec(Checked):
    """What a recipe is meant to run on: `accelerators` of one kind; a run takes one of them."""

    accelerator: str
    accelerators: int = 1

    def problems(self) -> Iterator[InputError]:
        yield from _positive("machine", self)
        try:
            accelerator(self.accelerator)
        except InputError as error:
            yield error

    @property
    def chip(self) -> Accelerator:
        """What the table says of one of them."""
        return accelerator(self.accelerator)


@frozen
class ExpectedSpec(Checked):
    """What a recipe says that it takes: exact training FLOPs of all its runs, and the time on its machine."""

    train_flops: float
    seconds: float

    def problems(self) -> Iterator[InputError]:
        return _positive("expected", self)


@frozen
class SweepSpec(Checked):
    """A recipe: one TOML file under sweeps/."""

    purpose: str
    training: TrainingSpec
    design: DesignSpec
    shape: ShapeSpec = field(default_factory=ShapeSpec)
    data: DataConfig = field(default_factory=DataConfig)
    machine: MachineSpec | None = None
    expected: ExpectedSpec | None = None
    seed: int = 0

    def problems(self) -> Iterator[InputError]:
        names = ("seed", "training", "design", "shape", "data", "machine")
        seed, training, design, shape, data, machine = (getattr(self, name, None) for name in names)
        if seed is not None:
            yield from seed_problems(seed)
        if training:
            yield from _training_problems(training, design, shape, machine)
        if shape and data:
            yield from text_problems(data, shape.context)
        if design and shape and data:
            mup = bool(training and training.mup_base_width)
            yield from _model_problems(design, shape, data.vocabulary, mup=mup)


def _training_problems(
    training: TrainingSpec, design: Members | None, shape: ShapeSpec | None, machine: MachineSpec | None
) -> Iterator[InputError]:
    """What of the training does not go with the rest, as far as that could be read."""
    if shape and shape.tied_head:
        yield from mup_problems(training.mup_base_width, optimizer="adamw", tied_head=True)
    if isinstance(design, (IsoFlop, Grid)) and training.schedule == "constant":
        yield InputError(
            'training.schedule is "constant", but only runs whose learning rate decays are fitted',
            hint=f'use training.schedule = "wsd", or a design other than {design.kind}',
        )
    if machine and training.precision == "bf16" and machine.chip.trains_in != "bf16":
        yield InputError(
            f"training.precision is bf16, which {machine.chip.name} does not compute in",
            hint='set training.precision = "f32", or name another machine.accelerator',
        )


def _model_problems(design: Members, shape: ShapeSpec, vocabulary: int, *, mup: bool) -> Iterator[InputError]:
    """A problem for each model that is named and cannot be built, and for heads that muP cannot compare."""
    again, tests = design.repeats, design.holdouts
    widths = (*design.widths, *(map(int, again) if design.widths else ()), *(h.width for h in tests))
    sizes = (*design.sizes, *(() if design.widths else again), *(h.size for h in tests))
    shapes = (*design.shapes, *(h.shape for h in tests))
    try:
        models = models_named(
            shape,
            vocabulary=vocabulary,
            widths=dict.fromkeys(widths),
            sizes=dict.fromkeys(sizes),
            shapes=dict.fromkeys(shapes),
        )
    except InputError as error:
        yield from problems_in(error)
        return
    head_sizes = sorted({model.head_size for model in models})
    if mup and len(head_sizes) > 1:
        yield InputError(
            "training.mup_base_width needs heads of one size at every width, but the models here have heads "
            "of " + " and ".join(map(str, head_sizes)),
            hint=f"set shape.head_size = {head_sizes[0]}",
        )


def _one_of(table: str, value: Any, names: Iterable[str]) -> Iterator[InputError]:
    """A problem unless exactly one of the fields is set."""
    names = tuple(names)
    given = [name for name in names if getattr(value, name) is not None]
    if len(given) == 1:
        return
    if given:
        yield InputError(f"{table} has both {' and '.join(given)}", hint=f"keep one of {' and '.join(given)}")
    else:
        yield InputError(f"{table} needs one of {', '.join(names)}", hint=f"add {table}.{names[0]} = ...")


def _positive(table: str, value: Any) -> Iterator[InputError]:
    """A problem for each number, or number of a list, that is not more than 0 and should be."""
    for name in (n for n in value.__dataclass_fields__ if n != "learning_rate_exponent"):
        found = getattr(value, name, None)  # a field that could not be read is told elsewhere
        for number in found if isinstance(found, tuple) else (found,):
            allowed = name == "tokens_per_parameter" and isinstance(value, IsoFlop) and number == 0
            if isinstance(number, (int, float)) and number <= 0 and not allowed:
                yield InputError(
                    f"{table}.{name} holds {number:g}, but must be more than 0",
                    hint=f"correct {table}.{name}",
                )
