"""CSV files of anybody's: what is understood, what is refused, and in which words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting import gather
from llama_scale.fitting.filters import parse_filter
from llama_scale.fitting.tables import read_table


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "header",
    [
        *("N,D,L", "params,tokens,loss", "Parameters, Tokens ,LOSS", "n,d,loss_nats"),
        *("num_parameters,tokens_seen,final_loss", "param_count,total_tokens,test_loss"),
    ],
)
def test_header_aliases_in_any_case(tmp_path: Path, header: str) -> None:
    (row,) = read_table(table(tmp_path, f"# a comment\n{header}\n7B,1.4T,1.95\n")).rows
    assert (row.parameters, row.tokens, row.loss) == (7e9, 1.4e12, 1.95)


def test_units_plain_numbers_and_budgets_mix(tmp_path: Path) -> None:
    text = "run,N,D,loss,C,budget\na,7B,2e9,2.1,8.4e19,1e20\nb,7000000000,2000000000,2.1,8.4e19 FLOPs,\n"
    a, b = read_table(table(tmp_path, text)).rows
    assert (a.parameters, a.tokens, a.train_flops) == (b.parameters, b.tokens, b.train_flops)
    assert (a.budget, b.budget) == (1e20, None)
    assert a.name == "a"


def test_a_byte_order_mark_and_quotes_are_no_obstacle(tmp_path: Path) -> None:
    (row,) = read_table(table(tmp_path, '\ufeff"N","D","L","run"\n"1e6","1e7","3","a, b"\n')).rows
    assert row.name == "a, b"


def test_quotes_may_follow_a_blank(tmp_path: Path) -> None:
    (row,) = read_table(table(tmp_path, '"N", "D", "L", "run"\n"1,000,000", "1e7", "3", "a, b"\n')).rows
    assert (row.parameters, row.name) == (1e6, "a, b")


def test_a_training_loss_is_taken_where_there_is_no_other_and_said(tmp_path: Path) -> None:
    alone = read_table(table(tmp_path, "N,D,Train Loss\n1e6,1e7,3\n"))
    assert alone.rows[0].loss == 3
    assert any(warning.startswith("Train Loss is of training") for warning in alone.warnings)
    both = read_table(table(tmp_path, "N,D,train_loss,val_loss\n1e6,1e7,3,3.1\n"))
    assert both.rows[0].loss == 3.1
    assert not any("is of training" in warning for warning in both.warnings)
    assert any("'train_loss': the latter is not read" in warning for warning in both.warnings)


def test_what_was_taken_for_granted_is_said(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "N,D,L\n1e6,1e7,3\n"))
    assert found.convention == "total"
    assert any("taken as total" in warning for warning in found.warnings)
    assert any("6ND" in warning for warning in found.warnings)
    asked = read_table(table(tmp_path, "N,D,L,C\n1e6,1e7,3,6e13\n"), convention="matmul")
    assert (asked.convention, asked.warnings) == ("matmul", ())


def test_a_table_may_name_its_convention(tmp_path: Path) -> None:
    by_column = read_table(table(tmp_path, "parameters_matmul,D,L\n1e6,1e7,3\n"))
    by_cell = read_table(table(tmp_path, "N,D,L,convention\n1e6,1e7,3,matmul\n"))
    assert by_column.convention == by_cell.convention == "matmul"
    both = table(tmp_path, "N,parameters_non_embedding,D,L\n1e6,5e5,1e7,3\n")
    assert read_table(both).rows[0].parameters == 1e6
    assert read_table(both, convention="non_embedding").rows[0].parameters == 5e5


def test_filters_keep_rows_and_list_the_others(tmp_path: Path) -> None:
    path = table(tmp_path, "run,N,D,L,dataset,bad\na,1e6,1e7,3,c4,0\nb,1e6,1e7,3,pile,0\nc,1e6,1e7,3,c4,1\n")
    found = read_table(path, where=[parse_filter("dataset = c4"), parse_filter("bad < 1")])
    assert [row.name for row in found.rows] == ["a"]
    assert {(e.run, e.reason) for e in found.exclusions} == {("b", "not dataset = c4"), ("c", "not bad < 1")}


def test_roles_and_statuses_of_our_own_tables_are_understood(tmp_path: Path) -> None:
    ends = ["a,train,done", "b,holdout,done", "c,trunk,done", "d,train,failed"]
    text = "N,D,L,run,role,status\n" + "".join(f"1e6,1e7,3,{end}\n" for end in ends)
    found = read_table(table(tmp_path, text))
    assert [(row.name, row.held_out) for row in found.rows] == [("a", False), ("b", True)]
    assert [e.run for e in found.exclusions] == ["c", "d"]


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("N,Dd,L\n1,1,1\n", "no column 'tokens'.*found: N, Dd, L", "tokens"),
        ("N\n1\n", "no column 'tokens' nor 'loss'", "add a column 'tokens', add a column 'loss'"),
        ("N,D,1\n1,1,1\n", "no column 'loss'", "add a column 'loss'"),
        ("parameters tokens loss\n1 1 1\n", "no column 'parameters'", "separate the cells by commas"),
        ("params,toks,loss\n1,1,1\n", "no column 'tokens'", "rename 'toks' to 'tokens'"),
        ("N,D,cross_entropy\n1,1,1\n", "no column 'loss'", "rename 'cross_entropy' to 'loss'"),
        ("N,D,nll\n1,1,1\n", "no column 'loss'", "rename 'nll' to 'loss'"),
        ("N,D,bits_per_token\n1,1,1\n", "no column 'loss'", "rename 'bits_per_token' to 'loss (bits)'"),
        ("N,D,bpb\n1,1,1\n", "no column 'loss'", "'loss', 'bpb' times ln 2 and the bytes that a token has"),
        ("N,dataset_size,loss\n1,1,1\n", "no column 'tokens'", "rename 'dataset_size' to 'tokens'"),
        ("N,tokens_per_parameter,loss\n1,1,1\n", "no column 'tokens'", "per_parameter' times the parameters"),
        ("params_M,D,loss\n1,1,1\n", "no column 'parameters'", "rename 'params_M' to 'parameters (M)'"),
        ("batch_size,D,loss\n1,1,1\n", "no column 'parameters'", "add a column 'parameters'"),
        ("N,D,loss (ppl)\n1,1,20\n", "column 'loss .ppl.' is a perplexity", "natural logarithm"),
        ("N,D,loss (bits/byte)\n1,1,1\n", "is a loss of another unit than a token", "bytes that a token has"),
        ("N (parsecs),D,loss\n1,1,1\n", "runs.csv, column 'N .parsecs.': 'parsecs' is no unit", "(1e6)"),
        ("N,D,Val PPL\n1,1,20\n", "no column 'loss'", "'loss', the natural logarithm of 'Val PPL'"),
        ("run,N,step,lr,loss\na,1,1,1,1\n", "no column 'tokens'", "`--form multi-power`"),
        ("N,D,L\n7Q,1T,2\n", "line 2, column N: '7Q'", "7B"),
        ("N,D,L\n7B,$3,2\n", "line 2, column D:.*dollars", "1.4T"),
        ("N,D,L\n7B,1T,two\n", "line 2, column L: 'two' is not a number", "3.21"),
        ("N,D,L\n7B,1T\n", "line 2 has 2 cells, but the header has 3", "torn"),
        ('N,D,L\n1,1,1\n"1,1,1\n', "line 3 has 1 cells", "torn"),
        ("# only a comment\n", "holds no rows", "header"),
        ("", "holds no rows", "header"),
        ("N,D,L,convention\n1,1,1,all\n", "parameter convention all", "total"),
    ],
)
def test_bad_tables_are_one_error_that_names_the_place(
    tmp_path: Path, text: str, said: str, hint: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_table(table(tmp_path, text))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "bad", ["1e8,1e9,nan", "1e8,1e9,NA", "1e8,1e9,", "1e8,1e9,0", "1e8,1e9,-2", "1e8,1e9,inf", "0,1e9,2"]
)
@pytest.mark.parametrize("header", ["N,D,L", "params,tokens,Val Loss"])
def test_the_filter_that_an_error_names_leaves_the_row_out(tmp_path: Path, header: str, bad: str) -> None:
    path = table(tmp_path, f"{header}\n1e7,1e9,3.5\n{bad}\n1e8,1e10,2.5\n")
    with pytest.raises(InputError, match="line 3") as caught:
        gather(path)
    where = re.search(r"--where '(.*)'", caught.value.hint)
    assert where
    assert gather(path, where=[where[1]]).names == ("runs.csv line 2", "runs.csv line 4")


def test_a_count_made_of_bad_flops_is_left_out_by_its_flops(tmp_path: Path) -> None:
    path = table(tmp_path, "N,C,L\n1e7,6e16,3.5\n1e8,-6e18,2\n1e8,6e18,2.5\n")
    with pytest.raises(InputError, match=r"line 3 has train_flops -6e\+18") as caught:
        gather(path)
    where = re.search(r"--where '(.*)'", caught.value.hint)
    assert where
    assert gather(path, where=[where[1]]).names == ("runs.csv line 2", "runs.csv line 4")


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("x.csv", "absent.csv"):
        with pytest.raises(InputError, match="cannot read"):
            read_table(tmp_path / name)


def test_bad_filters(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the filter"):
        parse_filter("dataset")
    with pytest.raises(InputError, match="no column 'datset'") as caught:
        read_table(table(tmp_path, "N,D,L,dataset\n1,1,1,a\n"), where=[parse_filter("datset=a")])
    assert "dataset" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "cell", "kept"),
    [
        ("a = 1", "1.0", True),
        ("a == x", "x", True),
        ("a != 1", "2", True),
        ("a >= 10", "9", False),
        ("a = 'b c'", "b c", True),
    ],
)
def test_filters_compare_numbers_as_numbers(text: str, cell: str, kept: bool) -> None:
    assert parse_filter(text).keeps(cell) is kept


def test_what_compares_nothing_is_no_filter() -> None:
    for text in ("N >> 1", "N => 1", "N =< 1"):
        with pytest.raises(InputError, match="cannot read the filter"):
            parse_filter(text)
    with pytest.raises(InputError, match=r"compares 3\.2 with 'abc', which is no number"):
        parse_filter("loss > abc").keeps("3.2")
    assert parse_filter("date > 2024-01").keeps("2024-02")
    assert not parse_filter("loss > 0").keeps("")


def test_a_column_that_is_passed_over_is_named(tmp_path: Path) -> None:
    def said(text: str) -> list[str]:
        return [w for w in read_table(table(tmp_path, text)).warnings if "not read" in w]

    assert said("parameters,params,D,L\n1e8,7e7,1e9,3\n") == [
        "runs.csv has 'parameters' and 'params': the latter is not read"
    ]
    assert "'loss' and 'Val Loss (nats)'" in said("N,D,Val Loss (nats),loss\n1e8,1e9,3.1,3\n")[0]
    assert said("parameters,params,D,L\n1e8,1e8,1e9,3\n") == []  # one number twice
    assert "'tokens' and '(B) D'" in said("N,tokens,(B) D,L\n1e8,1e9,2,3\n")[0]
    both = "Params (total),Params (non-embedding),D,L\n2e8,1e8,1e9,3\n"
    assert said(both) == []  # each is read, as a count of its own
    assert said("active_params,total_params,D,L\n1e8,8e8,1e9,3\n") == [
        "runs.csv has 'total_params' and 'active_params': the latter is not read, nor its FLOPs counted"
    ]


def test_filters_know_our_names_and_units(tmp_path: Path) -> None:
    path = table(tmp_path, "Model Size,D,L\n7B,1e12,2.0\n1e9,1e12,2.4\n")
    assert len(read_table(path, where=[parse_filter("parameters > 2B")]).rows) == 1
    assert len(read_table(path, where=[parse_filter("n <= 1e9")]).rows) == 1
    assert len(read_table(path, where=[parse_filter("tokens = 1T")]).rows) == 2


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("params <= 2B", [1, 2]),
        ("N <= 2e0", [1, 2]),
        ("size > 2", [3]),
        ("params = 70M", [1]),
        ("params = 0.07", [1]),
        ("C < 2e3 EFLOPs", [1, 2]),
        ("C < 2000", [1, 2]),
        ("C < 2e21 FLOPs", [1, 2]),
        ("D != 1T", [2, 3]),
    ],
)
def test_filters_know_the_unit_of_a_header(tmp_path: Path, text: str, kept: list[int]) -> None:
    rows = "0.07,1,3,1\n2,2,2.5,1e3\n7B,3,2.0,3e3\n"
    path = table(tmp_path, f"Params (B),Tokens [T],L,C (EFLOPs)\n{rows}")
    found = read_table(path, where=[parse_filter(text)])
    assert [row.tokens / 1e12 for row in found.rows] == kept


def test_rows_of_one_run_at_several_steps_are_its_curve(tmp_path: Path) -> None:
    text = "run,N,step,D,L\na,1e8,20,2e9,3.0\na,1e8,10,1e9,3.5\nb,2e8,10,1e9,3.3\n"
    found = read_table(table(tmp_path, text))
    assert [(row.name, row.tokens) for row in found.rows] == [("a", 2e9), ("b", 1e9)]
    (curve,) = found.curves
    assert (curve.run, curve.tokens.tolist(), curve.loss.tolist()) == ("a", [1e9, 2e9], [3.5, 3.0])
    assert [(e.run, e.reason.split(" of")[0]) for e in found.exclusions] == [("a", "1 point")]
    with pytest.raises(InputError, match=r"line 3 .* has 1e\+08 parameters, but a later step of run a"):
        read_table(table(tmp_path, text.replace("a,1e8,20", "a,3e8,20")))


def test_flops_stand_in_for_a_missing_count_and_are_said(tmp_path: Path) -> None:
    sized = read_table(table(tmp_path, "N,C,L\n1e8,6e17,3\n"))
    timed = read_table(table(tmp_path, "D,C,L\n1e9,6e17,3\n"))
    assert sized.rows[0].tokens == pytest.approx(1e9)
    assert timed.rows[0].parameters == pytest.approx(1e8)
    assert any("D = C / 6N" in warning for warning in sized.warnings)
    assert any("N = C / 6D" in warning for warning in timed.warnings)


def test_a_unit_may_stand_in_the_header(tmp_path: Path) -> None:
    (row,) = read_table(table(tmp_path, "Params (B),Tokens [T],Loss\n7,1.5,2.0\n")).rows
    assert (row.parameters, row.tokens) == (7e9, 1.5e12)


@pytest.mark.parametrize(
    ("header", "parameters", "convention"),
    [
        ("Parameters (in millions)", 7e6, "total"),
        ("Parameters (1e6)", 7e6, "total"),
        ("N (x10^6)", 7e6, "total"),
        ("N [10⁶ params]", 7e6, "total"),
        ("Parameters (non-embedding)", 7.0, "non_embedding"),
        ("Model Size (M, excluding embeddings)", 7e6, "non_embedding"),
        ("Params (matmul) [B]", 7e9, "matmul"),
        ("params_non_embedding (B)", 7e9, "non_embedding"),
    ],
)
def test_a_header_may_name_a_factor_and_a_convention(
    tmp_path: Path, header: str, parameters: float, convention: str
) -> None:
    found = read_table(table(tmp_path, f'"{header}",D (in billions),Loss (C4)\n7,1.5,2.0\n'))
    assert (found.rows[0].parameters, found.rows[0].tokens) == (parameters, 1.5e9)
    assert (found.rows[0].loss, found.convention) == (2.0, convention)


def test_flops_may_have_a_factor_in_their_header(tmp_path: Path) -> None:
    for header in ("C (1e18)", "flops (10^18 FLOPs)", "compute (EFLOPs)"):
        (row,) = read_table(table(tmp_path, f"N,D,loss,{header}\n7B,1e9,2.0,42\n")).rows
        assert row.train_flops == pytest.approx(4.2e19)


@pytest.mark.parametrize(
    "header",
    ["loss (bits)", "Val Loss [bits per token]", "loss (bits/token)", "loss (log2)", "loss (base 2)"],
)
def test_losses_in_bits_are_turned_into_nats_and_said(tmp_path: Path, header: str) -> None:
    found = read_table(table(tmp_path, f"N,D,{header}\n7B,1e9,3.0\n"))
    assert found.rows[0].loss == pytest.approx(3 * np.log(2))
    assert f"{header} is taken times ln 2, as nats a token" in found.warnings


@pytest.mark.parametrize("header", ["loss (16-bit)", "loss (8-bit weights)", "loss (16 bits)", "loss (fp16)"])
def test_the_width_of_numbers_is_no_unit_of_a_loss(tmp_path: Path, header: str) -> None:
    found = read_table(table(tmp_path, f"N,D,{header}\n7B,1e9,3.0\n"))
    assert found.rows[0].loss == 3.0
    with pytest.raises(InputError, match="no column 'loss'") as caught:
        read_table(table(tmp_path, "N,D,loss_16bit\n7B,1e9,3.0\n"))
    assert "rename 'loss_16bit' to 'loss'" in caught.value.hint


def test_every_count_of_a_table_is_kept(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "params,params_no_embed,D,L,outlier\n2e8,1e8,1e9,3,1\n"))
    assert found.rows[0].counts == {"non_embedding": 1e8}
    assert found.rows[0].flagged
    exported = "parameters,parameters_matmul,parameters_total,D,L\n1e8,1e8,2e8,1e9,3\n"
    assert read_table(table(tmp_path, exported)).convention == "matmul"
    with pytest.raises(InputError, match="as total only, not as matmul"):
        read_table(table(tmp_path, "parameters_total,D,L\n1e8,1e9,3\n"), convention="matmul")
    with pytest.raises(InputError, match="convention total, not matmul"):
        read_table(table(tmp_path, "N,D,L,convention\n1e8,1e9,3,total\n"), convention="matmul")


YES, NO = ("1", "1.0", "true", "True", "yes", "Y", "t"), ("0", "0.0", "false", "NO", "n", "f", "")


def test_yes_and_no_are_read_as_words_and_as_numbers(tmp_path: Path) -> None:
    """A column of pandas with a gap in it holds 0.0 and 1.0."""
    words = [*YES, *NO]
    text = "N,D,L,{}\n" + "".join(f"1e8,1e9,3,{word}\n" for word in words)
    flagged = read_table(table(tmp_path, text.format("outlier"))).rows
    assert [row.flagged for row in flagged] == [word in YES for word in words]
    ended = read_table(table(tmp_path, text.format("schedule_complete")))
    assert len(ended.rows) == len(YES)
    assert len(ended.exclusions) == len(NO)
    with pytest.raises(InputError, match=r"line 2, column outlier: '0\.3' is neither yes nor no") as caught:
        read_table(table(tmp_path, "N,D,L,outlier\n1e8,1e9,3,0.3\n"))
    assert "1 or 0" in caught.value.hint


@pytest.mark.parametrize(
    "absent", ["", "NA", "na", "NaN", "nan", "None", "none", "<NA>", "N/A", "NULL", "#N/A", "-"]
)
def test_a_cell_without_a_value_is_one_however_it_is_written(tmp_path: Path, absent: str) -> None:
    columns = ("outlier", "budget", "C", "family", "corpus", "status", "unique_tokens", "run", "role")
    rest = ",".join([absent] * len(columns))
    path = table(tmp_path, f"N,D,L,{','.join(columns)}\n1e8,1e9,3,{rest}\n")
    (row,) = read_table(path).rows
    assert (row.name, row.place) == ("runs.csv line 2",) * 2
    assert (row.flagged, row.budget, row.train_flops, row.unique_tokens) == (False, None, None, None)
    assert (row.family, row.corpus) == ("", "")
    held = read_table(path, where=[parse_filter("family = none"), parse_filter("corpus != c4")])
    assert len(held.rows) == 1
    for text in ("budget > 0", "budget < 1e30"):
        assert not parse_filter(text).keeps(absent)


def test_a_reason_to_call_a_run_an_outlier_flags_it(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, "N,D,L,outlier\n1e8,1e9,3,duplicate\n1e8,2e9,2.9,\n")).rows
    assert [row.flagged for row in rows] == [True, False]
    with pytest.raises(InputError, match="'duplicate' is neither yes nor no"):
        read_table(table(tmp_path, "N,D,L,schedule_complete\n1e8,1e9,3,duplicate\n"))


@pytest.mark.parametrize("column", ["status", "State"])
def test_a_run_has_ended_in_the_words_of_any_tracker(tmp_path: Path, column: str) -> None:
    ended, others = ("done", "finished", "Completed", "SUCCESS", ""), ("running", "crashed", "killed")
    text = f"N,D,L,{column}\n" + "".join(f"1e8,1e9,3,{word}\n" for word in (*ended, *others))
    found = read_table(table(tmp_path, text))
    assert len(found.rows) == len(ended)
    assert [e.reason for e in found.exclusions] == [f"its {column} is {word}" for word in others]


def test_where_no_row_of_a_table_counts_the_hint_speaks_of_its_columns(tmp_path: Path) -> None:
    path = table(tmp_path, "N,D,L,status\n1e8,1e9,3,preempted\n")
    with pytest.raises(UnidentifiedError, match="its status is preempted") as caught:
        gather(path)
    assert "finished" in caught.value.hint
    assert "sweep" not in caught.value.hint


def test_rows_without_a_name_are_called_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "first.csv").write_text("N,D,L\n1e8,1e8,3.4\n1e8,1e9,3\n2e8,1e9,2.9\n")
    (tmp_path / "second.csv").write_text("N,D,L\n2e8,1e9,2.9\n1e9,1e8,3.3\n4e8,1e9,2.8\n")
    found = gather([tmp_path / "first.csv", tmp_path / "second.csv"])
    assert found.names[-1] == "second.csv line 4"
    assert any("(second.csv line 3)" in warning for warning in found.warnings)
    (again,) = found.exclusions
    assert (again.run, again.reason) == ("second.csv line 2", f"the same run is in {tmp_path / 'first.csv'}")


def test_rows_whose_schedule_did_not_end_are_left_out(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "N,D,L,schedule_complete\n1e8,1e9,3,true\n1e8,5e8,4,false\n"))
    assert len(found.rows) == 1
    assert found.exclusions[0].reason == "its learning-rate schedule did not end"
