"""What no run can be, and what is odd but may be meant: errors that name the row, and warnings."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llama_scale.errors import InputError
from llama_scale.fitting.rows import Array, Row
from llama_scale.fitting.rules import groups_of
from llama_scale.laws import median
from llama_scale.quantities import counted, format_fraction, format_number

Mask = NDArray[np.bool_]

# Tokens a parameter: the five runs of Hoffmann et al. that Besiroglu et al. leave out have at most .404, all
# others at least .456.
UNDER_TRAINED = 0.45
DIVERGED = 1.2  # times the loss of a run that is no larger and saw no more
REPEAT_SPREAD = 0.02  # of losses at one size and duration: seeds differ by less, learning rates by more
LARGEST_LOSS = 15.0  # nats: a uniform guess among a million tokens
FEWEST_PARAMETERS = 1e3
MOST = 1e30  # FLOPs of 100,000 of the largest runs yet; no other value of a run is as large
LOSSES = (1e-6, 1e6)  # nats: beyond them squares and powers leave the range of floats


def check_values(row: Row) -> None:
    """Raises InputError for values that no run can have."""
    values: Mapping[str, float | None] = {
        "parameters": row.parameters,
        "tokens": row.tokens,
        "loss": row.loss,
        "train_flops": row.train_flops,
        "budget": row.budget,
        "unique_tokens": row.unique_tokens,
        **{f"parameters_{name}": value for name, value in row.counts.items()},
    }
    for name, value in values.items():
        least, most = LOSSES if name == "loss" else (0.0, MOST)
        if value is not None and not (least < value < most):
            sound = f"< {most:g}" if value >= most else f"> {least:g}"
            raise InputError(
                f"{row.place} has {name} {value:g}, but it must lie between {least:g} and {most:g}",
                hint=f"correct that row, or leave it out: --where '{name} {sound}'",
            )


def check_one_kind(rows: Sequence[Row]) -> None:
    """Raises InputError for losses on more than one text, or in tokens of more than one kind."""
    for kind in ("corpus", "tokenizer"):
        counts = Counter(getattr(row, kind) for row in rows)
        if len(counts) > 1:
            found = ", ".join(f"{name or 'unnamed'} ({count} runs)" for name, count in counts.most_common())
            raise InputError(
                f"losses under more than one {kind} cannot be fitted together: {found}",
                hint=f"choose one with --where '{kind} = {counts.most_common(1)[0][0]}'",
            )


def check_units(rows: Sequence[Row]) -> None:
    """A 7 beside 7e9 is a size in billions that lost its B; sizes that are all such lost their unit."""
    if not rows:
        return
    for name in ("parameters", "tokens"):
        low, high = (choose(rows, key=lambda row: getattr(row, name)) for choose in (min, max))
        small, large = getattr(low, name), getattr(high, name)
        if small < FEWEST_PARAMETERS and large > 1e5 * small:
            raise InputError(
                f"{low.place} has {name} {small:g} and {high.place} has {large:g}: are these one unit?",
                hint="write whole numbers or units, such as 7B, in every row",
            )
        if large < FEWEST_PARAMETERS:
            raise InputError(
                f"{high.place} has {name} {large:g}, and no row has more: which unit is that?",
                hint=f"write 7B or 7e9 in the rows, or name the unit in the header, as '{name} (B)'",
            )


def doubts_of(rows: Sequence[Row]) -> list[str]:
    """What is odd but may be meant, a sentence each."""
    loss = np.array([row.loss for row in rows])
    parameters, tokens = np.array([row.parameters for row in rows]), np.array([row.tokens for row in rows])
    found = [
        *_repeats(rows),
        *_flops(rows),
        *_trends(parameters * tokens, loss),
        *_listed(
            rows,
            tokens < UNDER_TRAINED * parameters,
            f"saw fewer than {UNDER_TRAINED} tokens a parameter, where laws often fail: --burn-in"
            f" {UNDER_TRAINED}/N leaves them out",
        ),
        *_listed(
            rows,
            _dominated(parameters, tokens, loss),
            f"lost over {format_fraction(DIVERGED - 1)} more than a run that is no larger and saw no more: if"
            " they diverged, leave them out with --where",
        ),
        *_listed(
            rows,
            np.array(
                [row.unique_tokens is not None and row.unique_tokens < 0.99 * row.tokens for row in rows]
            ),
            "trained on text seen before, which a law of fresh data does not know: `--form repeated` does",
        ),
    ]
    if loss.max() > LARGEST_LOSS:
        worst = rows[int(loss.argmax())]
        found.append(
            f"{worst.place} has a loss of {format_number(worst.loss)}: is that nats a token, or a perplexity?"
        )
    return found


def _listed(rows: Sequence[Row], doubtful: Mask, what: str) -> list[str]:
    """One sentence that counts the doubtful rows and names the first three."""
    names = [row.name for row, odd in zip(rows, doubtful, strict=True) if odd]
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return [f"{counted(len(names), 'run')} {what} ({shown})"] if names else []


def _repeats(rows: Sequence[Row]) -> list[str]:
    seen = Counter((row.parameters, row.tokens, row.loss) for row in rows)
    copies = sum(count - 1 for count in seen.values())
    said = []
    if copies:
        example = next(row for row in rows if seen[row.parameters, row.tokens, row.loss] > 1)
        said.append(f"rows repeat others exactly, {copies} in all, such as {example.place}: each counts")
    spread = [max(r.loss for r in group) / min(r.loss for r in group) - 1 for group in groups_of(rows)]
    wide = [value for value in spread if value > REPEAT_SPREAD]
    if wide:
        said.append(
            f"{len(wide)} pairs of size and duration occur with losses up to"
            f" {format_fraction(max(wide), 2)} apart: each run counts; `--repeats best` keeps the best of a"
            " grid of settings, `--repeats mean` averages"
        )
    return said


def _flops(rows: Sequence[Row]) -> list[str]:
    known = [row for row in rows if row.train_flops is not None]
    if not known:
        return []
    ratios = [(row.train_flops or 0) / (6 * row.parameters * row.tokens) for row in known]
    middle = median(ratios)
    if 0.3 < middle < 3:
        return []
    return [
        f"FLOPs are {format_number(middle)} times 6ND, such as in {known[0].place}: are sizes, tokens and"
        " FLOPs in the units that they seem to be?"
    ]


def _trends(flops: Array, loss: Array) -> list[str]:
    if len(loss) > 2 and rank_correlation(flops, loss) > 0:
        return ["losses rise with compute: are these runs one experiment, and the loss column a loss?"]
    return []


def _dominated(parameters: Array, tokens: Array, loss: Array) -> Mask:
    """Whether each loss is far above that of a run that should have done worse: no larger, no longer."""
    order = np.lexsort((tokens, parameters))
    found = np.zeros(len(loss), bool)
    best_tokens: list[float] = []  # with best_loss, the lowest losses so far by duration: a falling staircase
    best_loss: list[float] = []
    for i in order:
        at = bisect_right(best_tokens, tokens[i])
        if at and loss[i] > DIVERGED * best_loss[at - 1]:
            found[i] = True
        elif not at or loss[i] < best_loss[at - 1]:
            end = at
            while end < len(best_loss) and best_loss[end] >= loss[i]:
                end += 1
            best_tokens[at:end], best_loss[at:end] = [float(tokens[i])], [float(loss[i])]
    return found


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's, 0 where either is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    ranks = [np.argsort(np.argsort(values)) - (len(values) - 1) / 2 for values in (one, other)]
    return float((ranks[0] * ranks[1]).sum() / (ranks[0] ** 2).sum())
