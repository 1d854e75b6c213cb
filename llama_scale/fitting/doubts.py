"""What no run can be, and what is odd but may be meant: errors that name the row, and warnings."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

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
FLOPS_APART = 10.0  # of FLOPs over 6ND, from their median: tiny models without embeddings reach 2.3
DIVERGED = 1.2  # times the loss of a run that is no larger and saw no more
REPEAT_SPREAD = 0.02  # of losses at one size and duration: seeds differ by less, learning rates by more
LARGEST_LOSS = 15.0  # nats: a uniform guess among a million tokens
LARGEST = {"parameters": (1e3, 1e15), "tokens": (1e4, 1e17)}  # of a set: beyond, a unit was lost
USUAL_LARGEST = {"parameters": 1e4, "tokens": 1e5}  # below, one may have been
UNITLESS = 1e6  # counts in millions or billions are smaller
UNITS = (1e3, 1e6, 1e9, 1e12)
APART = 10**2.5  # neighbours of public sets are apart by a factor of 7.4 at most, units by 1e3 at least
RATIOS = (1e-4, 1e6)  # of the median run, tokens a parameter: beyond, one of the two lost a unit
USUAL_RATIOS = (1e-2, 1e5)  # those of public sets are 5 to 53
RATIOS_APART = 1e2
LESSER = 30.0  # times fewer parameters or tokens: of 3,000 public runs one does worse that repeats no data
MANY = 0.05  # of the runs: fewer that do worse than far lesser ones may just be odd
MOST = 1e30  # FLOPs of 100,000 of the largest runs yet; no other value of a run is as large
LOSSES = (1e-6, 1e6)  # nats: beyond them squares and powers leave the range of floats


def check_values(row: Row) -> None:
    """Raises InputError for values that no run can have."""
    values: Mapping[str, float | None] = {
        "train_flops": row.train_flops,  # first: a count that was missing is made of them
        "parameters": row.parameters,
        "tokens": row.tokens,
        "loss": row.loss,
        "budget": row.budget,
        "unique_tokens": row.unique_tokens,
        **{f"parameters_{name}": value for name, value in row.counts.items()},
    }
    for name, value in values.items():
        least, most = LOSSES if name == "loss" else (0.0, MOST)
        if value is not None and not (least < value < most):
            low, high = format_number(least), format_number(most)
            sound = f"< {high}" if value >= most else f"> {low}"
            raise InputError(
                f"{row.place} has {name} {value:g}, but it must be above {low} and below {high}",
                hint=f"correct that row, or leave it out: --where '{name} {sound}'",
            )


def check_one_kind(rows: Sequence[Row]) -> None:
    """Raises InputError for losses on more than one text, or in tokens of more than one kind."""
    for kind in ("corpus", "tokenizer"):
        counts = Counter(getattr(row, kind) for row in rows)
        if len(counts) > 1:
            found = ", ".join(
                f"{name or 'unnamed'} ({counted(count, 'run')})" for name, count in counts.most_common()
            )
            raise InputError(
                f"losses under more than one {kind} cannot be fitted together: {found}",
                hint=_one_kind(rows, kind, [name for name, _ in counts.most_common() if name]),
            )


def _one_kind(rows: Sequence[Row], kind: str, names: Sequence[str]) -> str:
    """How runs of several kinds become one; a table without that column has nothing to filter by."""
    nameless = next((row.place for row in rows if not getattr(row, kind)), None)
    if nameless is None:
        return f"choose one with --where '{kind} = {names[0]}'"
    return f"if {nameless} is of the same, say so in a column {kind!r} of its table: {names[0]}"


def check_units(rows: Sequence[Row]) -> None:
    """Raises InputError for counts that lost their unit: all of them, or some beside others that did not."""
    if not rows:
        return
    for name, (least, most) in LARGEST.items():
        _check_one_unit(rows, name)
        high = max(rows, key=lambda row: getattr(row, name))
        if not least <= (largest := getattr(high, name)) <= most:
            raise InputError(
                f"{high.place} has {name} {largest:g}, and no row has more: which unit is that?",
                hint=f"write 7B in every row, or name the unit in the header, as '{name} (B)'",
            )
    ratio = _ratio(rows)
    if not RATIOS[0] <= ratio <= RATIOS[1]:
        raise InputError(
            f"the median run, of {len(rows)}, saw {format_number(ratio)} tokens a parameter: which units are"
            " these?",
            hint="write 7B in every row, or name units in headers, as 'parameters (M)', 'tokens (B)'",
        )


def unit_doubts(rows: Sequence[Row]) -> list[str]:
    """What counts that lost their unit look like, but small models or odd durations as well."""
    found = []
    for name, least in USUAL_LARGEST.items():
        high = max(rows, key=lambda row: getattr(row, name))
        if (largest := getattr(high, name)) < least:
            found.append(f"{high.place} has {name} {largest:g}, and no row has more: is that its unit?")
    ratio = _ratio(rows)
    if not USUAL_RATIOS[0] <= ratio <= USUAL_RATIOS[1]:
        found.append(
            f"the median run saw {format_number(ratio)} tokens a parameter: are both in the units that they"
            " seem to be?"
        )
    return found


def _check_one_unit(rows: Sequence[Row], name: str) -> None:
    """A 7 beside 7e9 is a size in billions that lost its B.

    A model far larger than the others is no such: its tokens a parameter are like theirs, its loss is lower.
    Nor are rows which no unit would bring in line with the losses of the others.
    """
    ordered = sorted(rows, key=lambda row: getattr(row, name))
    for at, (low, high) in enumerate(pairwise(ordered), 1):
        small, large = getattr(low, name), getattr(high, name)
        if small >= UNITLESS or large < APART * small:
            continue
        below, above = ordered[:at], ordered[at:]
        better = max(row.loss for row in above) < min(row.loss for row in below)
        if better and 1 / RATIOS_APART < _ratio(above) / _ratio(below) < RATIOS_APART:
            continue
        if not _explained(below, above, name):
            continue
        raise InputError(
            f"{low.place} has {name} {small:g} and {high.place} has {large:g}: are these one unit?",
            hint="write units in every row, such as 7B or 0.7K",
        )


def _explained(below: Sequence[Row], above: Sequence[Row], name: str) -> bool:
    """Whether the least unit that brings the rows below among those above agrees with their losses.

    It does not where they then lost more than others no larger that saw no more: greater units only add to
    these.
    """
    most, least = getattr(below[-1], name), getattr(above[0], name)
    unit = next((unit for unit in UNITS if 2 * unit * most >= least), UNITS[-1])
    rows = [*(replace(row, **{name: unit * getattr(row, name)}) for row in below), *above]
    parameters, tokens, loss = (
        np.array([getattr(row, field) for row in rows]) for field in ("parameters", "tokens", "loss")
    )
    worse = loss > (1 + REPEAT_SPREAD) * _lowest_of_lesser(parameters, tokens, loss)
    return bool(worse[: len(below)].mean() <= 0.5)


def _ratio(rows: Sequence[Row]) -> float:
    """The median of tokens a parameter."""
    return median([row.tokens / row.parameters for row in rows])


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
            _beaten(rows, parameters, tokens, loss),
            f"lost more than a run of {LESSER:g} times fewer parameters or tokens that had no more of the"
            " other: did they diverge, or is a column not all in one unit?",
        ),
        *_listed(
            rows,
            _dominated(parameters, tokens, loss),
            f"lost over {format_fraction(DIVERGED - 1)} more than a run that is no larger and saw no more: if"
            " they diverged, leave them out with --where",
        ),
        *_listed(
            rows,
            _repeated(rows),
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


def _repeated(rows: Sequence[Row]) -> Mask:
    return np.array([row.fresh_tokens < 0.99 * row.tokens for row in rows])


def _repeats(rows: Sequence[Row]) -> list[str]:
    seen = Counter(_identity(row) for row in rows)
    copies = sum(count - 1 for count in seen.values())
    said = []
    if copies:
        example = next(row for row in rows if seen[_identity(row)] > 1)
        said.append(f"rows repeat others exactly, {copies} in all, such as {example.place}: each counts")
    spread = [max(r.loss for r in group) / min(r.loss for r in group) - 1 for group in groups_of(rows)]
    wide = [value for value in spread if value > REPEAT_SPREAD]
    if wide:
        said.append(
            f"losses at {counted(len(wide), 'pair')} of size and duration lie up to"
            f" {format_fraction(max(wide), 2)} apart: each run counts; `--repeats best` keeps the best of a"
            " grid of settings, `--repeats mean` averages"
        )
    return said


def _identity(row: Row) -> tuple[float, ...]:
    return (row.parameters, row.tokens, row.fresh_tokens, row.loss)


def _flops(rows: Sequence[Row]) -> list[str]:
    known = [row for row in rows if row.train_flops is not None]
    if not known:
        return []
    ratios = np.array([(row.train_flops or 0) / (6 * row.parameters * row.tokens) for row in known])
    middle = median(ratios)
    said = _listed(
        known,
        np.abs(np.log(ratios / middle)) > np.log(FLOPS_APART),
        f"cost over {FLOPS_APART:g} times more or less FLOPs, for 6ND, than most: are all in one unit?"
        " budgets, weights and backtests hang on them; `--flops 6nd` does without",
    )
    if 0.3 < middle < 3:
        return said
    return [
        f"FLOPs are {format_number(middle)} times 6ND, such as in {known[0].place}: are sizes, tokens and"
        " FLOPs in the units that they seem to be?",
        *said,
    ]


def _trends(flops: Array, loss: Array) -> list[str]:
    if len(loss) > 2 and rank_correlation(flops, loss) > 0:
        return ["losses rise with compute: are these runs one experiment, and the loss column a loss?"]
    return []


def _dominated(parameters: Array, tokens: Array, loss: Array) -> Mask:
    """Whether each loss is far above that of a run that should have done worse: no larger, no longer."""
    return loss > DIVERGED * _lowest_of_lesser(parameters, tokens, loss)


def _beaten(rows: Sequence[Row], parameters: Array, tokens: Array, loss: Array) -> Mask:
    """Whether a run that should have done far worse did better; none where few were beaten so.

    What repeats its data may well lose more.
    """
    lowest = np.minimum(
        _lowest_of_lesser(parameters, tokens, loss, LESSER),
        _lowest_of_lesser(tokens, parameters, loss, LESSER),
    )
    found = (loss > (1 + REPEAT_SPREAD) * lowest) & ~_repeated(rows)
    return found & (found.mean() > MANY)


def _lowest_of_lesser(large: Array, other: Array, loss: Array, times: float = 1.0) -> Array:
    """The lowest loss (n,) of runs at least so many times smaller and no greater in the other, else inf."""
    order = np.lexsort((other, large))
    found = np.full(len(loss), np.inf)
    best_other: list[float] = []  # with best_loss, the lowest losses so far by the other: a falling staircase
    best_loss: list[float] = []
    lesser = 0
    for place, i in enumerate(order):
        while lesser < place and times * large[order[lesser]] <= large[i]:
            _step(best_other, best_loss, float(other[order[lesser]]), float(loss[order[lesser]]))
            lesser += 1
        at = bisect_right(best_other, other[i])
        found[i] = best_loss[at - 1] if at else np.inf
    return found


def _step(best_other: list[float], best_loss: list[float], other: float, loss: float) -> None:
    """One run more on the staircase, in place of those that it does better than."""
    at = bisect_right(best_other, other)
    if at and loss >= best_loss[at - 1]:
        return
    end = at
    while end < len(best_loss) and best_loss[end] >= loss:
        end += 1
    best_other[at:end], best_loss[at:end] = [other], [loss]


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's, 0 where either is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    ranks = [np.argsort(np.argsort(values)) - (len(values) - 1) / 2 for values in (one, other)]
    return float((ranks[0] * ranks[1]).sum() / (ranks[0] ** 2).sum())
