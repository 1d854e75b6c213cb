"""Which points count: burn-in, repeats, runs of two sources, how FLOPs are counted; each with its reason."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from llama_scale.errors import InputError
from llama_scale.fitting.observations import Row, Rows, observe
from llama_scale.fitting.rules import BurnIn, Rules, parse_burn_in


def row(name: str, parameters: float, tokens: float, loss: float = 3.0, **others: Any) -> Row:
    return Row(
        name=name,
        place=str(others.pop("place", f"the row of {name}")),
        parameters=parameters,
        tokens=tokens,
        loss=loss,
        **others,
    )


def part(*rows: Row, source: str = "here") -> Rows:
    return Rows(source=source, rows=rows, convention="total")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, BurnIn()),
        ("2B", BurnIn(tokens=2e9)),
        ("1e9 tokens", BurnIn(tokens=1e9)),
        ("0.5/N", BurnIn(tokens_per_parameter=0.5)),
        ("5 / n", BurnIn(tokens_per_parameter=5.0)),
        ("0.5 tokens/parameter", BurnIn(tokens_per_parameter=0.5)),
        ("0.5 per parameter", BurnIn(tokens_per_parameter=0.5)),
    ],
)
def test_burn_in_is_tokens_or_tokens_a_parameter(text: str | None, expected: BurnIn) -> None:
    assert parse_burn_in(text) == expected


@pytest.mark.parametrize("text", ["soon", "-3", "$2", "/N", ""])
def test_other_burn_ins_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="burn-in") as caught:
        parse_burn_in(text)
    assert "--burn-in 2B" in caught.value.hint


def test_no_run_is_left_out_by_default() -> None:
    found = observe([part(row("short", 1e9, 1e6), row("long", 1e9, 1e10))])
    assert (found.names, found.exclusions) == (("short", "long"), ())


def test_runs_in_their_burn_in_are_left_out_by_name() -> None:
    runs = part(row("short", 1e9, 3e8), row("at", 2e9, 1e9), row("long", 1e9, 1e10))
    for rule in ("1B", "0.5/N"):  # which `at` has seen, to the token
        found = observe([runs], Rules(burn_in=parse_burn_in(rule)))
        assert found.names == ("at", "long")
        assert [(e.run, e.reason.split(":")[0]) for e in found.exclusions] == [("short", "burn-in")]


def test_repeats_all_count_or_the_best_or_their_mean() -> None:
    runs = part(row("a", 1e9, 1e10, 2.0), row("b", 1e9, 1e10, 2.2), row("c", 2e9, 1e10, 1.9))
    assert len(observe([runs])) == 3
    best = observe([runs], Rules(repeats="best"))
    assert (best.names, best.loss.tolist()) == (("a", "c"), [2.0, 1.9])
    assert "a, of the same size and duration" in best.exclusions[0].reason
    mean = observe([runs], Rules(repeats="mean"))
    assert mean.loss.tolist() == pytest.approx([(2.0 * 2.2) ** 0.5, 1.9])
    assert [e.run for e in mean.exclusions] == ["b"]


def test_runs_of_other_texts_are_no_repeats() -> None:
    once, again, same = (
        row("once", 1e9, 1e10, 2.0),
        row("again", 1e9, 1e10, 2.5, unique_tokens=1e9),
        row("same", 1e9, 1e10, 2.0, unique_tokens=1e10),
    )
    assert len(observe([part(once, again)], Rules(repeats="best"))) == 2
    assert "apart" not in "".join(observe([part(once, again)]).warnings)
    assert "exactly" not in "".join(observe([part(once, replace(again, loss=2.0))]).warnings)
    merged = observe([part(once, same)], Rules(repeats="best"))
    assert merged.names == ("once",)


def test_another_seed_whose_rounded_losses_agree_here_and_there_is_no_copy() -> None:
    def nameless(source: str, losses: list[float]) -> Rows:
        rows = [
            row(f"{source} {size}", 1e9 * size, 1e10, loss, place=f"{source} {size}")
            for size, loss in enumerate(losses, 1)
        ]
        return part(*rows, source=source)

    first = nameless("seed0", [2.5, 2.4, 2.3, 2.2])
    assert len(observe([first, nameless("seed1", [2.5, 2.41, 2.31, 2.21])])) == 8
    assert len(observe([first, nameless("copy", [2.5, 2.4, 2.3])])) == 4
    assert len(observe([first, nameless("copy and another seed", [2.5, 2.4, 2.31, 2.21])])) == 6


def test_a_run_that_two_sources_hold_counts_once() -> None:
    run = row("a", 1e9, 1e10, 2.0)
    found = observe([part(run, row("b", 2e9, 1e10)), part(run, source="there")])
    assert found.names == ("a", "b")
    assert [(e.run, e.reason) for e in found.exclusions] == [("a", "the same run is in here")]


def test_a_copy_whose_tokens_were_derived_is_one() -> None:
    tokens = 1.510000001e9
    derived = math.nextafter(tokens, 0.0)  # as C / 6N may come out
    found = observe([part(row("a", 1e8, tokens)), part(row("a", 1e8, derived), source="there")])
    assert len(found) == 1


def test_a_run_with_a_name_is_the_same_as_one_without() -> None:
    named, nameless = row("a", 1e9, 1e10, 2.0), row("file line 9", 1e9, 1e10, 2.0, place="file line 9")
    other = row("b", 1e9, 1e10, 2.0)
    for one, two in ((named, nameless), (nameless, named), (nameless, nameless)):
        assert len(observe([part(one), part(two, source="there")])) == 1
    assert len(observe([part(named), part(other, source="there")])) == 2
    assert len(observe([part(nameless, nameless)])) == 2  # copies within one table: each counts


def test_flops_are_counted_as_asked() -> None:
    known = part(row("a", 1e9, 1e10, train_flops=7e19), row("b", 1e9, 2e10, train_flops=1.4e20))
    assert observe([known]).flops_accounting == "exact"
    plain = observe([known], Rules(flops="6nd"))
    assert (plain.flops_accounting, plain.train_flops[0]) == ("6nd", 6e19)
    assert plain.source_flops.tolist() == [7e19, 1.4e20]  # for the comparison of countings
    with pytest.raises(InputError, match="c names no FLOPs"):
        observe([part(row("c", 1e9, 1e10))], Rules(flops="exact"))


def test_rules_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="repeats"):
        Rules(repeats="worst")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="FLOPs"):
        Rules(flops="guess")  # pyright: ignore[reportArgumentType]
