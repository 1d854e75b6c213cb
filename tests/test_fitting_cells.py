"""Tables of anybody's as cells: dialects, files that are no tables, and never a traceback."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_scale.errors import InputError, LlamaScaleError
from llama_scale.fitting import gather
from llama_scale.fitting.cells import read_cells
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.tables import read_table


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "runs.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends_of_all_kinds(tmp_path: Path, mark: str, end: str) -> None:
    lines = ["# from somewhere", mark.join("NDL"), "", mark.join(("7e9", "1e12", "2.5"))]
    found = read_cells(write(tmp_path, end.join(lines)))
    assert found.header == ("N", "D", "L")
    assert found.places == ("line 4",)
    assert list(found.rows[0]) == ["7e9", "1e12", "2.5"]


@pytest.mark.parametrize("mark", [";", ",", "\t", "|"])
def test_the_first_line_that_excel_writes_tells_the_separator(tmp_path: Path, mark: str) -> None:
    found = read_cells(write(tmp_path, f"sep={mark}\nrun{mark}a,b\nx{mark}1\n".replace("a,b", "ab")))
    assert (found.header, found.rows, found.places) == (("run", "ab"), (["x", "1"],), ("line 3",))


def test_decimal_commas_are_understood_where_they_cannot_part_thousands(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "N;D;L\n7e9;1e12;2,51\n7,5e9;1e12;2,125\n"))
    assert [row.loss for row in table.rows] == [2.51, 2.125]
    assert table.rows[1].parameters == 7.5e9
    with pytest.raises(InputError, match="line 2 has '2,512': is its comma a decimal one"):
        read_table(write(tmp_path, "N;D;L\n7e9;1e12;2,512\n"))
    (row,) = read_table(write(tmp_path, "N;D;L\n0,5B;10,25 B;2,51\n")).rows
    assert (row.parameters, row.tokens) == (5e8, 1.025e10)


def test_thousands_in_quotes_are_read_and_bare_ones_refused(tmp_path: Path) -> None:
    (row,) = read_table(write(tmp_path, 'N,D,L\n"7,000,000,000","1,000,000,000,000",2.5\n')).rows
    assert (row.parameters, row.tokens) == (7e9, 1e12)
    with pytest.raises(InputError, match="line 2 has 6 cells") as caught:
        read_table(write(tmp_path, "N,D,L\n7,000,000,000,1e12,2.5\n"))
    assert "thousands" in caught.value.hint


def test_a_cell_may_hold_a_line_end_and_rows_keep_their_lines(tmp_path: Path) -> None:
    found = read_cells(write(tmp_path, 'run,N\n"a\nb",1\n# no row\nc,2\n'))
    assert found.places == ("line 2", "line 5")
    assert found.rows[0][0] == "a\nb"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no rows"),
        (b"\xef\xbb\xbf", "holds no rows"),
        (b"N,D,L\n", "holds no rows"),
        (b"N,D,L\n1,2,3\n\xe9,2,3\n", "byte 0xe9 in line 3"),
        ("N,D,L\n1,2,3\n".encode("utf-16"), "UTF-16"),
        (gzip.compress(b"N,D,L\n1,2,3\n", mtime=0), "gzip"),
        (b"PK\x03\x04rest", "spreadsheet or a zip"),
        (b"N,D,L\n1,\x00,3\n", "zero bytes"),
        (b'{"N": 1e8, "D": 1e9, "L": 3}\n{"N": 2e8, "D": 1e9, "L": 2.9}\n', "it is JSON, not a table"),
        (b'[{"N": 1e8, "D": 1e9},\n{"N": 2e8, "D": 1e9}]\n', "it is JSON, not a table"),
        (b'{"schema": 1, "form": "chinchilla"}\n', "it is JSON, not a table"),
        (b'[\n  {"N": 1e8, "D": 1e9}\n]\n', "it is JSON, not a table"),
        (b"# N,D,L\n1e8,1e9,3\n2e8,1e9,2.9\n", "line 2 is its first that is no comment, but holds numbers"),
        (b"# run,N,D,L\na,1e8,1e9,3\nb,2e8,1e9,2.9\n", "line 2 is its first that is no comment"),
        (b'N,D,L\n1,2,"' + b"x" * 200_000 + b'"\n', "line 2 cannot be read as CSV"),
    ],
)
def test_files_that_are_no_tables_are_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_cells(write(tmp_path, content))
    assert caught.value.hint


def test_parquet_is_read_as_the_same_rows(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"run": ["a", None], "N": [7e9, 8e9], "D": [10**12, 10**12], "loss": [2.5, 2.4]}
    parquet.write_table(arrow.table(columns), tmp_path / "runs.parquet")
    found = read_table(tmp_path / "runs.parquet")
    assert [(row.name, row.parameters, row.tokens, row.loss) for row in found.rows] == [
        ("a", 7e9, 1e12, 2.5),
        ("runs.parquet row 2", 8e9, 1e12, 2.4),
    ]
    assert found.rows[1].place == "runs.parquet row 2"


def test_a_torn_parquet_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match=r"runs.parquet") as caught:
        read_table(tmp_path / "runs.parquet")
    assert "\n" not in caught.value.message


def test_one_bad_row_of_many_is_named(tmp_path: Path) -> None:
    rows = ["7e9,1e12,2.5"] * 20_000
    rows[12_345] = "7e9,1e12,much"
    with pytest.raises(InputError, match="line 12347, column L: 'much' is not a number"):
        read_table(write(tmp_path, "\n".join(["N,D,L", *rows])))


def tried(path: Path) -> Observations | None:
    """What a file gives: observations, or one of our errors with a hint; nothing else may come out."""
    try:
        return gather(path)
    except LlamaScaleError as error:
        assert error.hint
        assert "\n" not in error.hint
        return None


SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CELL = st.one_of(
    st.sampled_from(
        ["", "nan", "inf", "-1", "0", "7B", "1e999", "1_0", "٣", "7,5", '"', "#", "\u2028", "$3"]
    ),
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.text(max_size=6),
)
HEADER = st.sampled_from(
    ["N", "D", "L", "C", "loss", "params (B)", "tokens", "run", "step", "status", "", "x"]
)


@SETTINGS
@given(content=st.binary(max_size=300))
def test_no_bytes_make_a_traceback(tmp_path: Path, content: bytes) -> None:
    tried(write(tmp_path, content))


@SETTINGS
@given(
    header=st.lists(HEADER, min_size=1, max_size=6),
    rows=st.lists(st.lists(CELL, min_size=1, max_size=6), max_size=6),
    mark=st.sampled_from([",", ";", "\t"]),
)
def test_no_cells_make_a_traceback(
    tmp_path: Path, header: list[str], rows: list[list[str]], mark: str
) -> None:
    lines = [mark.join(header), *(mark.join(row) for row in rows)]
    tried(write(tmp_path, "\n".join(lines).encode("utf-8", "surrogatepass")))


SIZES = st.floats(min_value=1e6, max_value=1e12)
RATIOS = st.floats(min_value=1, max_value=1e4)  # tokens a parameter: others are questioned
RUNS = st.tuples(SIZES, RATIOS, st.floats(0.1, 10)).map(lambda run: (run[0], run[0] * run[1], run[2]))


@SETTINGS
@given(rows=st.lists(RUNS, min_size=1, max_size=8))
def test_rows_that_can_be_come_back_as_they_were(
    tmp_path: Path, rows: list[tuple[float, float, float]]
) -> None:
    text = "\n".join(["D;L;N", *(f"{d!r};{loss!r};{n!r}" for n, d, loss in rows)])
    found = tried(write(tmp_path, text))
    assert found is not None
    assert found.parameters.tolist() == [n for n, _, _ in rows]
    assert found.tokens.tolist() == [d for _, d, _ in rows]
    assert found.loss.tolist() == [loss for _, _, loss in rows]
