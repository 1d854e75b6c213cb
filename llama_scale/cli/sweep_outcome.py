"""How a sweep without a law ends: which learning rate or batch was best, how loss fell with more tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from llama_scale import quantities
from llama_scale.cli.output import table
from llama_scale.frozen import frozen

if TYPE_CHECKING:
    from llama_scale.runs import RunConfig, RunRecord


# By what runs of a study are told apart: a loss is compared with that of the same model and seed.
TOLD_BY: dict[str, Callable[[Tried], str]] = {
    "params": lambda run: quantities.format_count(run.record.parameters.matmul),
    "seed": lambda run: str(run.config.seed),
}


@frozen
class Tried:
    """One run that ended: what it was trained with, and the loss that it reached, infinite if it diverged."""

    config: RunConfig
    record: RunRecord
    loss_nats: float

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.loss_nats)

    @property
    def ratio(self) -> float:
        """Tokens per matmul parameter."""
        return self.record.tokens / self.record.parameters.matmul

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.record.run,
            "parameters": self.record.parameters.matmul,
            "tokens": self.record.tokens,
            "tokens_per_parameter": self.ratio,
            "learning_rate": self.config.optimizer.learning_rate,
            "batch_tokens": self.config.tokens_per_step,
            "seed": self.config.seed,
            "status": self.record.status,
            "loss_nats": self.loss_nats,
        }


def tried(configs: dict[str, RunConfig], records: Sequence[RunRecord]) -> list[Tried]:
    """The runs that reached an end or diverged on the way, by model, then seed, tokens and what was tried.

    One that diverged has the tokens that it was to see.
    """
    found = []
    for record in records:
        config, diverged = configs[record.run], record.status == "diverged"
        steps = config.schedule.total_steps
        if steps and diverged:
            planned = replace(record, tokens=steps * config.tokens_per_step)
            found.append(Tried(config=config, record=planned, loss_nats=math.inf))
        elif record.schedule_complete and record.loss_nats is not None:
            found.append(Tried(config=config, record=record, loss_nats=record.loss_nats))
    return sorted(found, key=_order)


def _order(run: Tried) -> tuple[float, ...]:
    tokens = 0 if run.record.role == "search" else run.record.tokens
    size, rate = run.record.parameters.matmul, run.config.optimizer.learning_rate
    return size, run.config.seed, tokens, run.config.tokens_per_step, rate


def search_in_words(runs: Sequence[Tried], varied: str) -> list[object]:
    """The best of each model and duration first, then all; `varied` is "learning rate" or "batch"."""
    groups: dict[tuple[int, str, int], list[Tried]] = {}
    for run in runs:
        # Durations are rounded to whole steps, which differ in length between batches.
        lasting = quantities.format_count(run.record.tokens, 2)
        groups.setdefault((run.record.parameters.matmul, lasting, run.config.seed), []).append(run)
    rows, said = [], []
    by_seed = len({run.config.seed for run in runs}) > 1
    for (parameters, tokens, seed), group in groups.items():
        best = min(group, key=lambda run: run.loss_nats)
        inside = group[0] is not best is not group[-1]
        beyond = "" if inside else "; it is the last that was tried: try beyond it"
        found = f"the best {varied} is {_value(best, varied)}{beyond}"
        if best.diverged:
            found = "all diverged: try a lower learning rate"
        of_seed = f", seed {seed}" if by_seed else ""
        said.append(f"{quantities.format_count(parameters)} parameters on {tokens} tokens{of_seed}: {found}.")
        rows += [_row(run, best, by_seed) for run in group]
    seeds = ("seed",) if by_seed else ()
    return [*said, "", table(rows, ("", *seeds, "params", "tokens", "batch", "LR", "nats", "over the best"))]


def overtraining_in_words(runs: Sequence[Tried]) -> list[object]:
    """Loss by tokens per parameter, and what each step further brought, of one model and seed at a time."""
    names = [name for name, of in TOLD_BY.items() if len({of(run) for run in runs}) > 1]
    diverged = [f"The run of {_ratio(run)}{_whose(run, names)} diverged." for run in runs if run.diverged]
    runs = [run for run in runs if not run.diverged]
    if not runs:
        return [*diverged]
    alike = [list(group) for _, group in groupby(runs, lambda run: [of(run) for of in TOLD_BY.values()])]
    rows = [
        (
            *(TOLD_BY[name](run) for name in names),
            quantities.format_number(run.ratio),
            quantities.format_count(run.record.tokens),
            f"{run.loss_nats:.4f}",
            f"{run.loss_nats - before.loss_nats:+.4f}" if before else "–",
        )
        for group in alike
        for before, run in zip([None, *group], group, strict=False)
    ]
    return [
        *(_from_first_to_last(group, _whose(group[0], names)) for group in alike),
        *diverged,
        "",
        table(rows, (*names, "tokens/parameter", "tokens", "nats", "change")),
    ]


def _from_first_to_last(runs: Sequence[Tried], whose: str) -> str:
    """What the first and the last run say."""
    first, last = runs[0], runs[-1]
    if first is last:
        return f"At {_ratio(first)} the loss{whose} was {first.loss_nats:.4f} nats per token."
    return (
        f"From {quantities.format_number(first.ratio)} to {_ratio(last)} the loss{whose} went from "
        f"{first.loss_nats:.4f} to {last.loss_nats:.4f} nats per token."
    )


def _ratio(run: Tried) -> str:
    return f"{quantities.format_number(run.ratio)} tokens per parameter"


def _whose(run: Tried, names: Sequence[str]) -> str:
    """Which run that is, where there are others: " of 10M parameters and seed 1"."""
    said = {"params": "{} parameters", "seed": "seed {}"}
    words = " and ".join(said[name].format(TOLD_BY[name](run)) for name in names)
    return f" of {words}" if words else ""


def _value(run: Tried, varied: str) -> str:
    if varied == "batch":
        return f"{quantities.format_count(run.config.tokens_per_step)} tokens"
    return quantities.format_number(run.config.optimizer.learning_rate)


def _row(run: Tried, best: Tried, name_seed: bool) -> tuple[str, ...]:
    return (
        ">" if run is best else "",
        *((str(run.config.seed),) if name_seed else ()),
        quantities.format_count(run.record.parameters.matmul),
        quantities.format_count(run.record.tokens),
        quantities.format_count(run.config.tokens_per_step),
        quantities.format_number(run.config.optimizer.learning_rate),
        "diverged" if run.diverged else f"{run.loss_nats:.4f}",
        "–" if run.diverged else f"{run.loss_nats - best.loss_nats:+.4f}",
    )
