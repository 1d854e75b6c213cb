"""Sources of all kinds, alone and together, and what is given in place of runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic import independent_runs, sweep

from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting import Rules, fit, gather
from llama_scale.fitting.settings import Settings
from llama_scale.laws import write_fit
from llama_scale.runs import load_records

EXPORT = Path(__file__).parents[1] / "sweeps" / "results" / "default-seed0.json"
TABLE = "parameters_matmul,D,L,corpus,tokenizer\n"


def test_records_exports_and_tables_are_fitted_together(tmp_path: Path) -> None:
    records = load_records(EXPORT)
    known = next(record for record in records if record.status == "done" and record.tokenizer)
    row = f"2e5,4e6,3.1,{known.corpus},{known.tokenizer}\n"
    (tmp_path / "more.csv").write_text(TABLE + row)
    found = gather([EXPORT, tmp_path / "more.csv"])
    assert len(found) == 37
    assert found.convention == "matmul"
    assert found.sources == (str(EXPORT), str(tmp_path / "more.csv"))
    assert gather(records).names == found.names[:-1]


def test_a_table_that_is_named_twice_is_warned_of_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("N,D,L\n1e8,1e10,3.1\n2e8,1e10,2.9\n")
    once, twice = gather(path), gather([path, path])
    assert (len(twice), twice.warnings) == (2, once.warnings)
    assert {exclusion.reason for exclusion in twice.exclusions} == {f"the same run is in {path}"}


def test_sources_of_two_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("parameters_matmul,D,L\n2e5,4e6,3.1\n")
    with pytest.raises(InputError, match="more than one corpus") as caught:
        gather([EXPORT, tmp_path / "other.csv"])
    corpus = next(record.corpus for record in load_records(EXPORT) if record.corpus)
    assert caught.value.hint == (
        f"if other.csv line 2 is of the same, say so in a column 'corpus' of its table: {corpus}"
    )
    (tmp_path / "total.csv").write_text("parameters_total,D,L\n2e5,4e6,3.1\n")
    with pytest.raises(InputError, match="count parameters differently"):
        gather([EXPORT, tmp_path / "total.csv"])


def test_filters_reach_counts_of_records() -> None:
    found = gather(EXPORT, where=["parameters >= 100k", "D < 2M", "parameters_total < 300000"])
    assert found.parameters.min() >= 1e5
    assert found.tokens.max() < 2e6
    assert found.counts["total"].max() < 3e5


def test_what_is_given_in_place_of_runs_is_recognised(tmp_path: Path) -> None:
    law = write_fit(
        tmp_path / "law.json", fit(sweep(0), settings=Settings(form="chinchilla", draws=0, backtest=False))
    )
    with pytest.raises(InputError, match="is a fit already, not runs") as caught:
        gather(law)
    assert "plan --law" in caught.value.hint
    with pytest.raises(InputError, match=r"holds no runs, but law\.json"):
        gather(tmp_path)
    for torn, why in (
        ("[1, 2", "not JSON, or cut short"),
        ('{"records": 5}', "not what `runs export` writes"),
        ('[{"parameters": 1}]', "not what `runs export` writes"),
        ("[" * 200_000, "not JSON"),
    ):
        (tmp_path / "other.json").write_text(torn)
        with pytest.raises(InputError, match=f"holds no run records: it is {why}"):
            gather(tmp_path / "other.json")
    with pytest.raises(InputError, match="no run store or CSV at"):
        gather(tmp_path / "absent")
    with pytest.raises(InputError, match="no runs were given"):
        gather([])


ROWS = [
    {"Params (M)": 100, "tokens": 1e9, "loss": 3.4, "run": "a", "budget": 6e17},
    {"Params (M)": 200, "tokens": 1e9, "loss": 3.2, "budget": float("nan")},
    {"Params (M)": 400, "tokens": 2e9, "loss": 2.9, "run": "c"},
]


def test_tables_in_memory_are_read_as_files_are() -> None:
    pandas = pytest.importorskip("pandas")
    for source in (ROWS, pandas.DataFrame(ROWS)):
        found = gather(source, where="loss < 3.3")
        assert found.names == ("table row 2", "c")
        assert found.parameters.tolist() == [2e8, 4e8]
        assert found.exclusions[0].run == "a"
    twice = pandas.concat([pandas.DataFrame(ROWS), pandas.DataFrame({"loss": [9.0] * len(ROWS)})], axis=1)
    with pytest.raises(InputError, match="the data frame has more than one column 'loss'"):
        gather(twice)
    with pytest.raises(InputError, match="is no run"):
        gather(pandas.DataFrame(ROWS)["loss"])
    assert gather(ROWS, where=None).names == gather(ROWS).names
    rows = [*ROWS, {"Params (M)": 800, "tokens": 2e9, "loss": None, "run": "d"}]
    with pytest.raises(InputError, match=r"table row 4 \(d\), column loss: the cell is empty"):
        gather(rows)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "NoneType None holds no runs"),
        (7, "int 7 holds no runs"),
        ({"parameters": [1e8], "tokens": [1e9]}, "dict .* holds no runs"),
        ([1e8, 1e9], "float 100000000.0 is no run"),
    ],
)
def test_what_holds_no_runs_is_said(source: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        gather(source)
    assert "list of dicts" in caught.value.hint


def test_words_that_only_python_lets_through_are_checked() -> None:
    words: Any
    for words, said in (
        ({"convention": "foo"}, "no parameter convention 'foo'"),
        ({"rules": "best"}, "rules are 'best'"),
        ({"where": 3}, "the filters are 3"),
        ({"where": [3]}, r"the filters are \[3\]"),
    ):
        with pytest.raises(InputError, match=said):
            gather(EXPORT, **words)


def test_words_of_a_few_may_be_in_capitals_as_on_the_command_line() -> None:
    said = Settings(form="Chinchilla", direction="Compute", resampling="Rows")  # type: ignore[arg-type]
    assert said == Settings(form="chinchilla", direction="compute", resampling="rows")
    assert Rules(repeats="Mean", flops="6ND") == Rules(repeats="mean", flops="6nd")  # type: ignore[arg-type]
    found = gather(EXPORT, convention="Total")  # type: ignore[arg-type]
    assert found.convention == "total"
    with pytest.raises(InputError, match="how many unique tokens"):
        fit(EXPORT, form="Repeated")
    with pytest.raises(InputError, match="function of their own"):
        fit(EXPORT, form="Multi-Power")


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(UnidentifiedError) as caught:
        gather(tmp_path)
    assert "llama-scale sweep" in caught.value.hint


def test_a_table_is_fitted_without_what_it_has_no_use_for(tmp_path: Path) -> None:
    """A cold fit of a table takes a second: stores, SciPy and numpy.ma would add a tenth each, or more."""
    path = tmp_path / "runs.csv"
    rows = zip(
        *(getattr(independent_runs(0), name) for name in ("parameters", "tokens", "loss")), strict=True
    )
    path.write_text("\n".join(["N,D,L", *(",".join(f"{value:.6g}" for value in row) for row in rows)]))
    call = "llama_scale.fit(sys.argv[1], form='chinchilla', draws=20)"
    code = f"import sys, llama_scale; {call}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert not {"scipy", "numpy.ma", "statistics", "torch", "llama_scale.runs"} & set(done.stdout.split())
