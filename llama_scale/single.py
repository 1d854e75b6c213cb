"""One run from its recipe: model, tokens, schedule and rates, known whole before anything trains."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from typing import Any

from llama_scale import quantities
from llama_scale.architecture import (
    LLAMA_7B,
    LLAMA_13B,
    LLAMA_33B,
    LLAMA_65B,
    ModelConfig,
)
from llama_scale.checked import Checked, problems_in
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.hyperparameters import Rule, Tuning, tuning
from llama_scale.runs import (
    DataConfig,
    RunConfig,
    TokenizerName,
    TrainingTable,
    mup_problems,
    seed_problems,
    text_problems,
)
from llama_scale.shapes import TOO_LARGE, ExplicitShape, ShapeSpec, model_of_shape, model_of_size

FAMILY = {"llama-7b": LLAMA_7B, "llama-13b": LLAMA_13B, "llama-33b": LLAMA_33B, "llama-65b": LLAMA_65B}
LAYERS_BY_WIDTH = re.compile(r"(\d+)x(\d+)")
TOKENS_PER_PARAMETER = 20.0  # Hoffmann et al. 2022, table 3, of all but the input embedding
CONTEXT = 256
DEFAULT_MODEL = "1M"


@frozen
class SingleTraining(TrainingTable):
    """How the run is trained; rate, batch, beta2 and warm-up that are left out are by the named `rule`."""

    rule: Rule = "measured"


@frozen
class SingleSpec(Checked):
    """A recipe of one run.

    `model` is a name (llama-7b), a parameter count ("10M", counted in all) or layers by width ("4x256");
    `start_from` is a folder of transformers in its place, whose model is trained on. `tokens` or `steps` say
    how long it trains, 20 tokens a parameter where neither does.
    """

    purpose: str = ""
    model: str | None = None
    start_from: str | None = None
    tokens: float | None = None
    steps: int | None = None
    shape: ShapeSpec = field(default_factory=lambda: ShapeSpec(context=CONTEXT))
    training: SingleTraining = field(default_factory=SingleTraining)
    data: DataConfig = field(default_factory=DataConfig)
    seed: int = 0

    def problems(self) -> Iterator[InputError]:
        for name in ("tokens", "steps"):
            value = getattr(self, name, None)  # a field that could not be read is told elsewhere
            if value is not None and not 1 <= value < TOO_LARGE:
                yield InputError(
                    f"{name} is {value:g}, but must be at least 1 and below {TOO_LARGE:g}",
                    hint=f"correct {name}, or leave it out",
                )
        if getattr(self, "seed", None) is not None:
            yield from seed_problems(self.seed)
        if self.tokens is not None and self.steps is not None:
            yield InputError("tokens and steps both say how long to train", hint="leave one of them out")
        if self.start_from is not None and (
            self.model is not None or self.shape != ShapeSpec(context=self.shape.context)
        ):
            yield InputError(
                "model or shape says which model to train, and so does start_from",
                hint="leave out model and all of shape but shape.context, or leave out start_from",
            )
        yield from self._problems_of_tables()

    def _problems_of_tables(self) -> Iterator[InputError]:
        training, shape, data = (getattr(self, name, None) for name in ("training", "shape", "data"))
        if training and shape and shape.tied_head:
            yield from mup_problems(training.mup_base_width, optimizer="adamw", tied_head=True)
        if (
            training
            and self.start_from is not None
            and training.initial_gain != SingleTraining().initial_gain
        ):
            yield InputError(
                "training.initial_gain is of weights that are drawn, but start_from gives them",
                hint="leave one of them out",
            )
        if shape and data:
            yield from text_problems(data, shape.context, starts=self.start_from is not None)
        if shape:
            yield from self._problems_of_model(shape)

    def _problems_of_model(self, shape: ShapeSpec) -> Iterator[InputError]:
        if _layers_and_width(self.model) and (shape.layers or shape.aspect_ratio):
            which = "layers" if shape.layers else "aspect_ratio"
            yield InputError(
                f"model {self.model} says how deep it is, and so does shape.{which}",
                hint=f"leave out shape.{which}, or name the model by its size",
            )
        elif self.start_from is None:
            try:
                model_of(self)
            except InputError as error:
                yield from problems_in(error)


@frozen
class Start:
    """Trained weights that a run goes on from: their model, and the sha256 that they are known by."""

    model: ModelConfig
    sha256: str


def with_family_defaults(tables: Mapping[str, Any]) -> dict[str, Any]:
    """`tables` of a recipe with the context, and for LLaMA's own models the vocabulary, that they lack."""
    named = FAMILY.get(str(tables.get("model", "")).strip().lower())
    return with_defaults_of(named, tables) if named else _with_defaults(tables, shape={"context": CONTEXT})


def with_defaults_of(
    model: ModelConfig, tables: Mapping[str, Any], tokenizer: TokenizerName = "bpe"
) -> dict[str, Any]:
    """`tables` of a recipe with `tokenizer`, and vocabulary and context of `model`, where they say none."""
    data = {"tokenizer": tokenizer, "vocabulary": model.vocabulary}
    return _with_defaults(tables, data=data, shape={"context": model.context})


def _with_defaults(tables: Mapping[str, Any], **defaults: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: tables.get(name, {}) for name in defaults}
    # what is no table is left for the reading to refuse
    return {**tables, **{n: {**defaults[n], **g} for n, g in given.items() if isinstance(g, Mapping)}}


def single_run(spec: SingleSpec, corpus: str, start: Start | None = None) -> RunConfig:
    """The run that `spec` means on the corpus with this sha256, from `start` where the spec names one.

    Raises InputError for a model that cannot be built and a run too short for its warm-up and decay.
    """
    model = replace(start.model, context=spec.shape.context) if start else model_of(spec)
    chosen, steps = _chosen(spec, model)
    run = spec.training.run(
        chosen,
        role="continued" if start else "train",
        model=model,
        data=spec.data,
        corpus=corpus,
        seed=spec.seed,
        total_steps=steps,
        decay_steps=_decay_steps(spec.training, steps, chosen.warmup_steps),
    )
    return replace(run, initial_weights=start.sha256) if start else run


def _chosen(spec: SingleSpec, model: ModelConfig) -> tuple[Tuning, int]:
    """What is given by hand and what the rule says of the rest, and the steps of the run."""
    training, sequences = spec.training, spec.training.sequences_per_step

    def chosen(tokens: float, sequences: int | None) -> Tuning:
        return tuning(
            training.rule,
            model,
            tokens,
            learning_rate=training.learning_rate,
            sequences_per_step=sequences,
            beta2=training.beta2,
            warmup_steps=training.warmup_steps,
        )

    tokens = spec.tokens or TOKENS_PER_PARAMETER * model.parameters.matmul
    found = chosen(tokens, sequences)
    a_step = found.sequences_per_step * model.context
    if spec.steps is None:
        return found, math.ceil(tokens / a_step)
    return chosen(float(spec.steps * a_step), found.sequences_per_step), spec.steps


def _decay_steps(training: SingleTraining, steps: int, warmup: int) -> int:
    """Steps that a schedule with a decay of its own gives it; InputError where the run is too short."""
    least = {"wsd": max(1, round(steps * training.decay_fraction)), "constant": 0}
    decay = least.get(training.schedule, 1)  # the others come down over all that warm-up leaves
    if warmup + decay > steps:
        raise InputError(
            f"a run of {quantities.counted(steps, 'step')} is too short for "
            f"{quantities.counted(warmup, 'step')} of warm-up"
            + (f" and {decay:,} of decay" if decay else ""),
            hint="train for longer, or set training.warmup_steps"
            + (" or training.decay_fraction lower" if decay > 1 else " lower"),
        )
    return decay if training.schedule == "wsd" else 0


def model_of(spec: SingleSpec) -> ModelConfig:
    """The model that `spec.model` names; raises InputError where it means none that can be built.

    >>> model_of(SingleSpec(model="llama-7b", data=DataConfig(vocabulary=32_000))).width
    4096
    """
    asked, vocabulary = DEFAULT_MODEL if spec.model is None else spec.model, spec.data.vocabulary
    if named := _layers_and_width(asked):
        layers, width = named
        return model_of_shape(ExplicitShape(layers=layers, width=width), spec.shape, vocabulary=vocabulary)
    try:
        size = quantities.parse_count(asked.strip().lower())
    except InputError:
        raise InputError(
            f"no model is called {asked!r}",
            hint=f"use {', '.join(FAMILY)}, a parameter count such as 10M, or layers by width such as 4x256",
        ) from None
    return model_of_size(size, spec.shape, vocabulary=vocabulary)


def _layers_and_width(model: str | None) -> tuple[int, int] | None:
    """The layers and the width that a model's name says: that of LLaMA's family, or layers by width."""
    name = (model or "").strip().lower()
    if family := FAMILY.get(name):
        return family.layers, family.width
    sizes = LAYERS_BY_WIDTH.fullmatch(name)
    return (int(sizes[1]), int(sizes[2])) if sizes else None
