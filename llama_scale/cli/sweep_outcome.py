"""How a sweep without a law ends: which learning rate or batch was best, how loss fell with more tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from llama_scale import quantities
from llama_scale.cli.output import table
from llama_scale.frozen import frozen

if TYPE_CHECKING:
    from llama_scale.runs import RunConfig, RunRecord


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
    """Loss by tokens per parameter, and what each step further brought."""
    diverged = [f"{_at(run)} diverged." for run in runs if run.diverged]
    runs = [run for run in runs if not run.diverged]
    if not runs:
        return [*diverged]
    by_seed = [list(group) for _, group in groupby(runs, key=lambda run: run.config.seed)]
    rows = [
        (
            *((run.config.seed,) if len(by_seed) > 1 else ()),
            quantities.format_number(run.ratio),
            quantities.format_count(run.record.tokens),
            f"{run.loss_nats:.4f}",
            f"{run.loss_nats - before.loss_nats:+.4f}" if before else "–",
        )
        for group in by_seed
        for before, run in zip([None, *group], group, strict=False)
    ]
    seeds = ("seed",) if len(by_seed) > 1 else ()
    return [
        *(_from_first_to_last(group, len(by_seed) > 1) for group in by_seed),
        *diverged,
        "",
        table(rows, (*seeds, "tokens/parameter", "tokens", "nats", "change")),
    ]


def _from_first_to_last(runs: Sequence[Tried], name_seed: bool) -> str:
    """What the first and the last run of one seed say."""
    first, last = runs[0], runs[-1]
    of_seed = f" of seed {first.config.seed}" if name_seed else ""
    return (
        f"From {quantities.format_number(first.ratio)} to {quantities.format_number(last.ratio)} tokens per "
        f"parameter the loss{of_seed} went from {first.loss_nats:.4f} to {last.loss_nats:.4f} nats per token."
    )


def _at(run: Tried) -> str:
    return f"The run of {quantities.format_number(run.ratio)} tokens per parameter"


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
