"""Which runs count: our own records, several sources together, designs that can be fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import BUDGETS, independent_runs, sweep, sweep_rows

from llama_scale.architecture import ParameterConvention, ParameterCounts
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.filters import parse_filter
from llama_scale.fitting.observations import (
    Row,
    Rows,
    check_design,
    check_spread,
    observe,
)
from llama_scale.fitting.records import rows_of_records
from llama_scale.laws import Range, ScalingLaw
from llama_scale.runs import RunRecord

RECORD = RunRecord(
    run="r1",
    role="train",
    status="done",
    parameters=ParameterCounts(total=90_000, non_embedding=26_000, matmul=58_000),
    tokens=1_000_000,
    train_flops=3.9e11,
    budget_flops=4e11,
    loss_nats=3.5,
    bits_per_byte=2.1,
    seed=0,
    family="t1",
    corpus="c",
    tokenizer="t",
    schedule_complete=True,
)


def row(parameters: float, tokens: float, loss: float = 3.0) -> Row:
    return Row(name="r", place="line 7", parameters=parameters, tokens=tokens, loss=loss)


def rows(*found: Row) -> Rows:
    return Rows(source="here", rows=found, convention="total")


def test_only_finished_runs_count_and_each_other_one_says_why() -> None:
    records = [
        RECORD,
        replace(RECORD, run="trunk", role="trunk"),
        replace(RECORD, run="undone", status="running"),
        replace(RECORD, run="early", schedule_complete=False),
        replace(RECORD, run="nan", loss_nats=float("nan")),
        replace(RECORD, run="test", role="holdout"),
    ]
    found = rows_of_records(records, source="runs")
    assert [(r.name, r.held_out) for r in found.rows] == [("r1", False), ("test", True)]
    assert {e.run for e in found.exclusions} == {"trunk", "undone", "early", "nan"}
    assert "decayed" in next(e.reason for e in found.exclusions if e.run == "trunk")


@pytest.mark.parametrize(
    ("convention", "parameters"), [(None, 58_000), ("total", 90_000), ("non_embedding", 26_000)]
)
def test_parameters_are_counted_as_asked(convention: ParameterConvention | None, parameters: int) -> None:
    found = rows_of_records([RECORD], source="runs", convention=convention)
    assert found.rows[0].parameters == parameters


def test_records_can_be_filtered_by_their_fields() -> None:
    records = [RECORD, replace(RECORD, run="r2", corpus="other")]
    found = rows_of_records(records, source="runs", where=[parse_filter("corpus = c")])
    assert [r.name for r in found.rows] == ["r1"]


def test_losses_under_two_corpora_or_tokenizers_are_refused() -> None:
    plain = replace(row(1e6, 1e7), corpus="a", tokenizer="a")
    for kind, other in (("corpus", replace(plain, corpus="b")), ("tokenizer", replace(plain, tokenizer="b"))):
        with pytest.raises(InputError, match=f"more than one {kind}") as caught:
            observe([rows(other, other, plain)])
        assert f"{kind} = b" in caught.value.hint


def test_sources_that_count_differently_are_refused() -> None:
    with pytest.raises(InputError, match="count parameters differently"):
        observe([rows(row(1e6, 1e7)), replace(rows(row(1e6, 1e7)), convention="matmul")])


@pytest.mark.parametrize(
    ("loss", "tokens"), [(float("nan"), 1e7), (-1.0, 1e7), (0.0, 1e7), (3.0, float("inf")), (3.0, 0)]
)
def test_impossible_values_name_their_row(loss: float, tokens: float) -> None:
    with pytest.raises(InputError, match="line 7"):
        observe([rows(row(1e6, tokens, loss))])


def test_a_seven_beside_seven_billion_is_questioned() -> None:
    with pytest.raises(InputError, match="are these one unit"):
        observe([rows(row(7, 1e12), row(7e9, 1e12))])


def test_doubtful_rows_are_warned_of() -> None:
    found = observe([rows(*(row(1e6 * 2**i, 1e8, 2 + i / 10) for i in range(5)), row(1e6, 1e8, 2.0))])
    assert any("repeat others exactly" in warning for warning in found.warnings)
    assert any("rise with compute" in warning for warning in found.warnings)


def test_nothing_left_says_what_was_left_out() -> None:
    empty = rows_of_records([replace(RECORD, status="failed")], source="runs")
    with pytest.raises(UnidentifiedError, match="status is failed"):
        observe([empty])


def test_held_out_runs_stay_apart() -> None:
    found = sweep(0, held_out=True)
    assert found.held_out is not None
    assert (len(found), len(found.held_out)) == (36, 3)
    assert found.support.train_flops is not None
    assert found.support.train_flops.high == pytest.approx(BUDGETS[-1])
    assert found.shares_trunks
    assert not independent_runs(0, count=20).shares_trunks
    assert len(np.unique(found.family_codes)) == 6


def test_flops_that_are_not_6nd_are_counted_exactly() -> None:
    plain = observe([rows(row(1e6, 1e7), row(2e6, 1e7))])
    dearer = observe(
        [rows(*(replace(r, train_flops=6.6 * r.parameters * r.tokens) for r in (row(1e6, 1e7),)))]
    )
    assert (plain.flops_accounting, plain.flops_over_6nd) == ("6nd", pytest.approx(1))
    assert (dearer.flops_accounting, dearer.flops_over_6nd) == ("exact", pytest.approx(1.1))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([row(1e6 * 2**i, 1e7 * 2**i) for i in range(5)], "5 runs cannot identify"),
        ([row(1e6, 1e7 * 2**i) for i in range(8)], "runs of 1 size cannot say"),
        ([row(1e6 * (1 + i % 2), 1e7 * 2**i) for i in range(8)], "runs of 2 sizes cannot say"),
        ([row(1e6 * 2**i, 1e7) for i in range(8)], "runs of 1 duration cannot say"),
        (
            [row(1e6 * 2**i, 2.01e7 * 2**i) for i in range(8)],
            "all 8 runs, 20 tokens a parameter: nothing says",
        ),
        ([row(1e6 * 4**i, 1e7 * 2**i) for i in range(8)], "all 8 runs, 0.078 to 10 tokens a parameter"),
    ],
)
def test_designs_that_identify_nothing_are_refused(found: list[Row], said: str) -> None:
    with pytest.raises(UnidentifiedError, match=said) as caught:
        check_design(observe([rows(*found)]))
    assert "add runs" in caught.value.hint


def test_one_run_off_the_line_tells_sizes_from_durations() -> None:
    ladder = [row(1e6 * 2**i, 2e7 * 2**i) for i in range(8)]
    check_design(observe([rows(*ladder, row(1e6, 8e7))]))


def test_three_sizes_of_three_durations_are_enough() -> None:
    law = ScalingLaw(E=1.7, A=400.0, B=400.0, alpha=0.34, beta=0.28)
    grid = [(1e6 * 2**i, 1e7 * 2**j) for i in range(3) for j in range(3)]
    check_design(observe([rows(*(row(n, d, float(law.loss(n, d))) for n, d in grid))]))
    sizes, durations = np.array(grid).T
    check_spread(sizes[1:7], durations[1:7])  # six runs for five constants
    with pytest.raises(UnidentifiedError, match="5 runs cannot identify a law of 5"):
        check_spread(sizes[1:6], durations[1:6])


def test_the_support_is_from_the_least_to_the_most_of_each() -> None:
    found = observe([rows(row(1e6, 2e7), row(4e6, 4e7), row(2e6, 1e9))]).support
    assert found.parameters == Range(1e6, 4e6)
    assert found.tokens == Range(2e7, 1e9)
    assert found.tokens_per_parameter == Range(10.0, 500.0)
    assert found.train_flops == Range(1.2e14, 1.2e16)


def test_a_single_budget_is_no_ladder() -> None:
    """There sizes grow as durations fall, and the loss has a minimum between the two."""
    check_design(observe([rows(*(row(1e6 * 2**i, 1e9 / 2**i) for i in range(8)))]))


def test_a_subset_keeps_its_columns_together() -> None:
    whole = sweep(0)
    part = whole.take(np.array([3, 1]))
    assert part.names == (whole.names[3], whole.names[1])
    assert part.loss.tolist() == whole.loss[[3, 1]].tolist()
    assert len(sweep_rows(0, trunk_noise=0, own_noise=0)) == len(whole)


def test_thousands_of_runs_of_any_length_are_of_many_durations() -> None:
    """Their neighbours lie nearer than what counts once."""
    runs = independent_runs(2, count=2000)
    check_design(runs)
