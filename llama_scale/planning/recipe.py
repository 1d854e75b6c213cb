"""How to train the recommended shape: learning rate, batch, warm-up and schedule, and where they come from.

The rule is the trainer's default (`hyperparameters.py`), set beside what published models of about the size
were trained with. From 210 million parameters on that is Step Law (`step_law.py`), found on dense LLaMA-like
models that decay to 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

from llama_scale import step_law
from llama_scale.architecture import ModelConfig
from llama_scale.closed_forms import ClosedForm, nearest_llamas
from llama_scale.costs import Formula
from llama_scale.frozen import frozen
from llama_scale.hyperparameters import BATCH_FORMULA, RATE_FORMULA, Regime, hyperparameters
from llama_scale.quantities import format_count, format_number
from llama_scale.step_law import step_law_batch

STEP_LAW_FINAL_RATE = 1e-5
PRACTICE_FACTOR = 2.0  # a learning rate further than that from published practice is worth a warning
_MEASURED = "measured on this trainer's own models of 7 to 107 thousand parameters (docs/training.md)"
_STEP_LAW = f"Step Law, {step_law.SOURCE}"
_SOURCES: Mapping[Regime, str] = {
    "measured": _MEASURED,
    "joined": f"between what was {_MEASURED} and {_STEP_LAW}",
    "step law": f"{_STEP_LAW}; warm-up and AdamW: LLaMA, arXiv 2302.13971, section 2.3",
}


class Practice(NamedTuple):
    """What a published model of about this size was trained with."""

    model: str
    peak_learning_rate: float
    batch_tokens: float | None
    source: str


@frozen
class Recipe:
    """How to train one shape; `extrapolation` are factors beyond the range that the rule was found on.

    Warm-up is linear. A cosine falls from the peak to the final rate over all later steps, `wsd` stays at
    the peak and falls over the last `decay_share` of the steps.
    """

    rule: Regime
    peak_learning_rate: float
    final_learning_rate: float
    batch_tokens: int
    batch_sequences: int
    steps: int
    warmup_steps: int
    schedule: Literal["cosine", "wsd"]
    decay_share: float
    beta1: float
    beta2: float
    weight_decay: float
    gradient_clip: float
    parameters_non_embedding: int
    tokens: float
    source: str
    extrapolation: Mapping[str, float]
    practice: tuple[Practice, ...]
    warnings: tuple[str, ...]

    @property
    def text(self) -> str:
        """The recipe in one line."""
        fall = "cosine" if self.schedule == "cosine" else f"constant, last {self.decay_share:.0%} falling"
        return (
            f"AdamW ({self.beta1:g}, {self.beta2:g}), peak learning rate "
            f"{format_number(self.peak_learning_rate, 2)}, {fall} to "
            f"{format_number(self.final_learning_rate, 2)}, {self.warmup_steps:,} steps of warm-up, batches "
            f"of {format_count(self.batch_tokens)} tokens ({self.steps:,} steps), weight decay "
            f"{self.weight_decay:g}, clip {self.gradient_clip:g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"practice": [practice._asdict() for practice in self.practice]}

    def formulas(self) -> Iterator[Formula]:
        """Name, formula, numbers and source of the learning rate, the batch and the steps."""
        n, d = self.parameters_non_embedding, self.tokens
        peak = format_number(self.peak_learning_rate, 3)
        if self.rule == "step law":
            yield Formula(
                "peak learning rate",
                "1.79 N^-.713 D^.307, N without embeddings",
                f"1.79 x {n:.4g}^-.713 x {d:.4g}^.307 = {peak}",
                self.source,
            )
            yield Formula(
                "batch",
                "0.58 D^.571 tokens, to a power of two of sequences",
                f"0.58 x {d:.4g}^.571 = {step_law_batch(d):.4g} tokens; {self.batch_sequences:,} sequences = "
                f"{self.batch_tokens:,}",
                self.source,
            )
        else:
            joined = ", joined with Step Law's" if self.rule == "joined" else ""
            numbers = f"N {n:.4g}, D {d:.4g}, B {self.batch_tokens:,}"
            yield Formula("peak learning rate", f"{RATE_FORMULA}{joined}", f"{numbers}: {peak}", self.source)
            batch = f"D {d:.4g}: {self.batch_sequences:,} sequences = {self.batch_tokens:,}"
            yield Formula(
                "batch", f"{BATCH_FORMULA}, to a power of two of sequences{joined}", batch, self.source
            )
        yield Formula("steps", "D / batch", f"{d:.4g} / {self.batch_tokens:,} = {self.steps:,}", "rounded up")


def recipe(shape: ModelConfig, tokens: float) -> Recipe:
    """How to train `shape` on `tokens`.

    >>> from llama_scale.architecture import LLAMA_7B
    >>> recipe(LLAMA_7B, 1e12).batch_tokens
    4194304
    """
    chosen = hyperparameters("measured", shape, tokens)
    by_step_law = chosen.regime == "step law"
    practice = _practice(shape) if by_step_law else ()
    batch = chosen.sequences_per_step * shape.context
    return Recipe(
        rule=chosen.regime,
        peak_learning_rate=chosen.learning_rate,
        final_learning_rate=min(STEP_LAW_FINAL_RATE, chosen.learning_rate) if by_step_law else 0.0,
        batch_tokens=batch,
        batch_sequences=chosen.sequences_per_step,
        steps=max(1, math.ceil(tokens / batch)),
        warmup_steps=chosen.warmup_steps,
        schedule="cosine" if by_step_law else "wsd",
        decay_share=1.0 if by_step_law else 0.2,
        beta1=0.9,
        beta2=chosen.beta2,
        weight_decay=0.1,
        gradient_clip=1.0,
        parameters_non_embedding=shape.parameters.non_embedding,
        tokens=tokens,
        source=_SOURCES[chosen.regime],
        extrapolation=chosen.extrapolation,
        practice=practice,
        warnings=tuple(_warnings(chosen.learning_rate, chosen.extrapolation, practice)),
    )


def _practice(shape: ModelConfig) -> tuple[Practice, ...]:
    """The nearest published LLaMA sizes that say what they were trained with."""
    total = shape.parameters.total
    return tuple(_practised(model) for model in nearest_llamas(total) if model.learning_rate)


def _practised(model: ClosedForm) -> Practice:
    return Practice(model.name, model.learning_rate or math.nan, model.batch_tokens, model.source)


def _warnings(peak: float, beyond: Mapping[str, float], practice: tuple[Practice, ...]) -> Iterator[str]:
    far = [f"{format_number(factor, 2)} x its {name}" for name, factor in beyond.items() if factor > 1]
    near = [
        f"1/{format_number(1 / factor, 2)} of its {name}" for name, factor in beyond.items() if factor < 1
    ]
    if far or near:
        yield f"the rule for the learning rate is used beyond its range: {', '.join(far + near)}"
    ratios = {model: peak / model.peak_learning_rate for model in practice}
    far_off = {m: r for m, r in ratios.items() if not 1 / PRACTICE_FACTOR <= r <= PRACTICE_FACTOR}
    if far_off:
        ratio = max(far_off.values(), key=lambda ratio: abs(math.log(ratio)))
        trained = " and ".join(f"{m.model} ({format_number(m.peak_learning_rate, 2)})" for m in far_off)
        yield (
            f"the rule's learning rate is up to {format_number(max(ratio, 1 / ratio), 2)} times "
            f"{'above' if ratio > 1 else 'below'} that of {trained}: try both on a small one"
        )
