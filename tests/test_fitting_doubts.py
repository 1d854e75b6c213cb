"""What no run can be, and what is odd: each an error or a warning that names the row."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting import gather
from llama_scale.fitting.doubts import DIVERGED, _dominated
from llama_scale.fitting.filters import parse_filter
from llama_scale.fitting.observations import Row, Rows, check_design, observe
from llama_scale.laws import published
from llama_scale.runs import load_records

LAW = published().law


def run(parameters: float, tokens: float, **others: object) -> Row:
    plain = Row(
        name=f"{parameters:.3g}-{tokens:.3g}",
        place=f"line of {parameters:.3g}",
        parameters=parameters,
        tokens=tokens,
        loss=float(LAW.loss(parameters, tokens)),
    )
    return replace(plain, **others)  # pyright: ignore[reportArgumentType]


SETS = (
    "chinchilla.csv",
    "chinchilla_isoflop_budgets.csv",
    "datablations.csv",
    "gadre_overtraining.csv",
    "llama3_isoflop.csv",
    "marin_nemotron_isoflop.csv",
    "misfitting_sweep.csv",
    "sardana2024_47runs.csv",
    "steplaw_dense_lr_bs.csv",
    "sweeps/results/default-seed0.json",
    "sweeps/results/twenty-minutes-seed20.json",
)
SOUND = tuple(run(n, n * ratio) for n in (1e8, 2e8, 4e8, 8e8) for ratio in (5, 20, 80))


def warnings_of(*rows: Row) -> str:
    return "\n".join(observe([Rows(source="here", rows=rows, convention="total")]).warnings)


def test_sound_runs_raise_no_doubt() -> None:
    assert warnings_of(*SOUND) == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
@pytest.mark.parametrize("column", ["parameters", "tokens", "loss", "train_flops", "budget", "unique_tokens"])
def test_values_that_no_run_has_name_row_and_column(column: str, value: float) -> None:
    with pytest.raises(InputError, match=f"line of .* has {column} "):
        warnings_of(*SOUND, replace(SOUND[0], **{column: value}))


@pytest.mark.parametrize(
    ("column", "value"), [("loss", 1e20), ("loss", 1e6), ("loss", 1e-300), ("parameters", 1e100)]
)
def test_values_beyond_all_reason_are_refused_with_the_filter_that_leaves_them_out(
    column: str, value: float
) -> None:
    with pytest.raises(InputError, match=f"line of .* has {column} ") as caught:
        warnings_of(*SOUND, replace(SOUND[0], **{column: value}))
    where = re.search(r"--where '(.*)'", caught.value.hint)
    assert where
    assert not parse_filter(where[1]).keeps(str(value))


def test_sizes_that_are_all_small_have_lost_their_unit() -> None:
    rows = [replace(row, parameters=row.parameters / 1e9) for row in SOUND]
    with pytest.raises(InputError, match="which unit") as caught:
        warnings_of(*rows)
    assert "parameters (B)" in caught.value.hint


SMALL = [run(n, n * ratio) for n in (2e3, 4e3, 8e3) for ratio in (20, 80)]


def scaled(column: str, factor: float, *, every: int = 1) -> list[Row]:
    """A wide sound set with one column of every so many rows in another unit."""
    rows = [run(n, n * ratio) for n in np.geomspace(2e8, 2e10, 8) for ratio in (5, 20, 80)]
    return [
        replace(row, **{column: getattr(row, column) * factor}) if i % every == 0 else row
        for i, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (scaled("parameters", 1e-6), "the median run.*tokens a parameter: which units"),
        (scaled("tokens", 1e-6), "the median run.*tokens a parameter: which units"),
        (scaled("tokens", 1e-6, every=2), "line of .* has tokens .* and line of .*: are these one unit"),
        (scaled("parameters", 1e-6, every=30), "line of .* has parameters 200 and .*: are these one unit"),
        (scaled("parameters", 1e9, every=30), "line of .* has parameters 2e.17, and no row has more"),
    ],
)
def test_counts_in_other_units_are_questioned(rows: list[Row], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        warnings_of(*rows)
    assert "7B" in caught.value.hint


def grid(sizes: tuple[float, ...], durations: tuple[float, ...]) -> list[Row]:
    """Runs of all pairs: losses of small models overlap with those of large ones that saw little."""
    return [run(n, d) for n in sizes for d in durations]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (grid((768, 393e3, 3e6, 25e6, 300e6), (1e8, 1e9, 1e10)), None),
        (grid((1e6, 1e7, 1e8), (5e5, 5e8, 5e9)), None),
        (grid((3e3, 6e3, 12e3), (1e8, 1e9, 1e10)), "the median run saw 166,667 tokens a parameter"),
        (grid((1e3, 2e3, 5e3), (1e5, 1e6)), "has parameters 5000, and no row has more"),
        (grid((1e4, 2e4), (3e4, 9e4)), "has tokens 90000, and no row has more"),
        (grid((1e9, 1e10, 1e11), (1e6, 1e7, 1e8)), "the median run saw 0.001 tokens a parameter"),
        (SMALL, "has parameters 8000, and no row has more"),
    ],
)
def test_small_models_and_odd_durations_are_fitted(rows: list[Row], said: str | None) -> None:
    found = warnings_of(*rows)
    assert re.search(said or "^(?!.*unit)", found)
    exact = observe([Rows(source="here", rows=tuple(rows), convention="total", units_known=True)])
    assert not [warning for warning in exact.warnings if "no row has more" in warning or "median" in warning]


@pytest.mark.parametrize(("above", "questioned"), [(1.01, True), (1.03, False)])
def test_a_size_that_no_unit_brings_in_line_with_the_losses_is_what_it_says(
    above: float, questioned: bool
) -> None:
    """900 may be 900M, if it loses no more, but for noise, than a smaller run that saw as much."""
    assert run(4e8, 2e9) in SOUND
    odd = run(900, 2e9, loss=above * float(LAW.loss(4e8, 2e9)))
    if questioned:
        with pytest.raises(InputError, match="are these one unit"):
            warnings_of(*SOUND, odd)
    else:
        warnings_of(*SOUND, odd)


def test_one_run_in_millions_beside_whole_counts_is_questioned() -> None:
    rows = grid((1e8, 3e8, 1e9), (83333333333, 2e10))
    with pytest.raises(InputError, match=r"has tokens 41667 and .*: are these one unit"):
        warnings_of(*rows, run(5e8, 41667, loss=float(LAW.loss(5e8, 41667e6))))


def test_counts_that_tell_their_units_and_our_own_are_taken_at_their_word(tmp_path: Path) -> None:
    text = "N,D,L\n0.768K,1M,9\n0.9K,10M,8\n"
    (tmp_path / "known.csv").write_text(text)
    (tmp_path / "bare.csv").write_text(text.replace("0.9K", "900"))
    assert gather(tmp_path / "known.csv").parameters.tolist() == [768, 900]
    with pytest.raises(InputError, match="has parameters 900, and no row has more: which unit"):
        gather(tmp_path / "bare.csv")
    export = Path(__file__).parents[1] / "sweeps" / "results" / "default-seed0.json"
    tiny = [
        replace(record, parameters=replace(record.parameters, matmul=500)) for record in load_records(export)
    ]
    assert set(gather(tiny).parameters.tolist()) == {500.0}


def test_counts_in_two_units_without_a_gap_are_doubted() -> None:
    rows = scaled("parameters", 1e-3, every=2)
    assert re.search("runs lost more than a run of 30 times fewer", warnings_of(*rows))
    assert "30 times" not in warnings_of(*scaled("parameters", 1.0))


def test_a_model_far_larger_than_its_ladder_is_no_mistake() -> None:
    ladder = [run(n, n * ratio) for n in (2e5, 4e5, 8e5) for ratio in (20, 80)]
    assert "unit" not in warnings_of(*ladder, run(1e9, 2e10))
    with pytest.raises(InputError, match="one unit"):
        warnings_of(*ladder, run(1e9, 2e10, loss=ladder[0].loss))


@pytest.mark.parametrize("name", SETS)
def test_public_sets_and_our_own_are_not_questioned(shared_data: Path, name: str) -> None:
    path = Path(__file__).parents[1] / name if "/" in name else shared_data / name
    said = "\n".join(gather(path).warnings)
    assert not re.search("unit|times 6ND", said)


def test_tokens_in_billions_beside_flops_are_questioned() -> None:
    rows = [
        replace(row, tokens=row.tokens / 1e3, train_flops=6 * row.parameters * row.tokens) for row in SOUND
    ]
    assert "1,000 times 6ND" in warnings_of(*rows)


def test_flops_of_some_rows_in_another_unit_are_questioned() -> None:
    def flops(row: Row, factor: float) -> Row:
        return replace(row, train_flops=6 * row.parameters * row.tokens * factor)

    third = [flops(row, 1e-3 if i % 3 == 0 else 1.0) for i, row in enumerate(SOUND)]
    assert re.search(r"4 runs cost over 10 times more or less FLOPs.*--flops 6nd", warnings_of(*third))
    one = [flops(row, 100.0 if i == 5 else 1.0) for i, row in enumerate(SOUND)]
    assert f"does without ({SOUND[5].name})" in warnings_of(*one)
    attention = [flops(row, 3 * (row.parameters / 1e8) ** -0.5) for row in SOUND]
    assert warnings_of(*attention) == ""


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (replace(SOUND[0], name="copy"), "rows repeat others exactly, 1 in all"),
        (
            replace(SOUND[0], name="seed", loss=SOUND[0].loss * 1.05),
            "1 pair of size and duration lie up to 5% apart.*--repeats best",
        ),
        (run(9e8, 1e8), "1 run.* fewer than 0.45 tokens a parameter.*--burn-in 0.45/N"),
        (run(9e8, 1e11, loss=2 * SOUND[0].loss), "1 run.* lost over 20% more"),
        (run(9e8, 1e11, loss=24.0), "a loss of 24: is that nats"),
        (run(9e8, 1e11, unique_tokens=1e10), "1 run trained on text seen before"),
    ],
)
def test_odd_rows_are_named_with_the_option_that_leaves_them_out(odd: Row, said: str) -> None:
    assert re.search(said, warnings_of(*SOUND, odd))


def test_losses_that_rise_with_compute_are_no_law() -> None:
    rows = [replace(row, loss=9 - row.loss) for row in SOUND]
    found = observe([Rows(source="here", rows=tuple(rows), convention="total")])
    assert any("rise with compute" in warning for warning in found.warnings)
    with pytest.raises(UnidentifiedError, match="losses rise with compute, as from 1e\\+08-5e\\+08"):
        check_design(found)


COUNT = st.integers(1, 6).map(float)
TRIPLES = st.lists(st.tuples(COUNT, COUNT, st.floats(1.0, 3.0)), min_size=1, max_size=12)


@given(triples=TRIPLES)
def test_divergence_is_what_comparing_all_pairs_finds(triples: list[tuple[float, float, float]]) -> None:
    n, d, loss = (np.array(column) for column in zip(*triples, strict=True))
    worse = [
        any(
            n[j] <= n[i] and d[j] <= d[i] and loss[i] > DIVERGED * loss[j] and (n[j], d[j]) != (n[i], d[i])
            for j in range(len(n))
        )
        for i in range(len(n))
    ]
    found = _dominated(n, d, loss)
    # Of runs of one size and duration, which are compared as well, order decides: leave those out here.
    alone = [sum((n[j], d[j]) == (n[i], d[i]) for j in range(len(n))) == 1 for i in range(len(n))]
    assert [f for f, a in zip(found.tolist(), alone, strict=True) if a] == [
        w for w, a in zip(worse, alone, strict=True) if a
    ]
