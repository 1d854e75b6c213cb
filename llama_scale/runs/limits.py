"""What settings of training may be, alone and together: the same for recipes and for the runs they mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

from llama_scale.errors import InputError
from llama_scale.frozen import frozen


@frozen
class Limits:
    """From `least` on, more than `above`, less than `below`."""

    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf

    def hold(self, value: float) -> bool:
        return self.least <= value < self.below and value > self.above

    def __str__(self) -> str:
        start = f"at least {self.least:g}" if self.above == -math.inf else f"more than {self.above:g}"
        return start + (f" and less than {self.below:g}" if self.below < math.inf else " and finite")


INTEGERS = ("i16", "i8")  # precisions that C kernels alone compute
SEEDS = 2**32  # of these every generator here takes products and sums in 64 bits
POSITIVE, COUNT, SHARE = Limits(above=0.0), Limits(least=1.0), Limits(least=0.0, below=1.0)
LIMITS = {
    **dict.fromkeys(("learning_rate", "learning_rate_times_width", "epsilon", "clip_norm"), POSITIVE),
    **dict.fromkeys(("batch_tokens", "sequences_per_step", "micro_batch", "mup_base_width"), COUNT),
    **dict.fromkeys(("beta1", "beta2", "momentum", "final_fraction", "z_loss"), SHARE),
    **dict.fromkeys(("weight_decay", "warmup_steps", "decay_steps"), Limits(least=0.0)),
    "initial_gain": POSITIVE,
    "decay_fraction": Limits(above=0.0, below=1.0),
}


def seed_problems(seed: int) -> Iterator[InputError]:
    """A problem for a seed that random numbers cannot be drawn by."""
    if not 0 <= seed < SEEDS:
        yield InputError(
            f"seed is {seed}, but seeds lie from 0 to {SEEDS - 1:,}", hint=f"set seed to one below {SEEDS:,}"
        )


def out_of_limits(value: object) -> Iterator[InputError]:
    """A problem for each field of `value` that is a number beyond the limits of its name."""
    for name in _limited(type(value)):
        number = getattr(value, name, None)  # a field that could not be read is told elsewhere
        if number is not None and not LIMITS[name].hold(number):
            yield InputError(
                f"training.{name} is {number:g}, but must be {LIMITS[name]}",
                hint=f"correct training.{name}, or leave it out",
            )


@cache
def _limited(type_: type) -> tuple[str, ...]:
    return tuple(name for name in LIMITS if name in getattr(type_, "__dataclass_fields__", ()))


def precision_problems(precision: str, recompute: str, *, compiled: bool) -> Iterator[InputError]:
    """What the precision leaves no room for."""
    if precision not in INTEGERS:
        return
    if recompute != "none":
        yield InputError(
            f"training.precision is {precision}, whose kernels keep what training.recompute = {recompute} "
            "would compute again",
            hint='set training.recompute = "none", or training.precision = "f32"',
        )
    if compiled:
        yield InputError(
            f"training.precision is {precision}, which C kernels compute, but training.compile leaves all to "
            "torch",
            hint='set training.compile = false, or training.precision = "f32"',
        )


def mup_problems(
    base_width: int | None, *, optimizer: str, tied_head: bool = False, rate_is_given: bool = True
) -> Iterator[InputError]:
    """What muP has no rule for, a rate that another rule has scaled by the size already among it."""
    if base_width is None:
        return
    if not rate_is_given:
        yield InputError(
            "training.mup_base_width carries the rate of one width to all, but no training.learning_rate "
            "is given",
            hint=f"set training.learning_rate to what suits a width of {base_width}",
        )
    if tied_head:
        yield InputError(
            "muP has different rules for embedding and head, but shape.tied_head makes them one",
            hint="set shape.tied_head = false, or leave training.mup_base_width out",
        )
    if optimizer != "adamw":
        yield InputError(
            "training.mup_base_width scales the rates of AdamW, but training.optimizer is muon, whose "
            "updates have the same size at every width by themselves",
            hint='set training.optimizer = "adamw", or leave training.mup_base_width out',
        )
