from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from llama_scale.cli.options import command as make_command
from llama_scale.cli.options import json_option, quiet_option
from llama_scale.cli.output import Output, current_output, entry, table
from llama_scale.errors import InfeasibleError

WIDE = "a long reason that does not fit beside the other columns of an eighty column terminal, so it folds"


def run(human: Any, *words: str, value: dict[str, Any] | None = None) -> Result:
    @make_command(examples=[])
    @json_option
    @quiet_option
    def answer(**_: object) -> None:
        output = current_output()
        output.talk("talking")
        output.warn("careful")
        output.result(value or {}, human)

    return CliRunner().invoke(answer, list(words))


def test_the_result_alone_is_on_stdout() -> None:
    result = run("the answer")
    assert result.stdout == "the answer\n"
    assert result.stderr == "talking\nwarning: careful\n"
    assert run("the answer", "--quiet").stderr == "warning: careful\n"


def test_json_has_its_schema_first_and_never_draws() -> None:
    def never() -> str:
        raise AssertionError("drawn for JSON")

    result = run(never, "--json", value={"loss": float("inf"), "rows": ((1, 2.5),), "name": "größe"})
    assert json.loads(result.stdout) == {"schema": 1, "loss": None, "rows": [[1, 2.5]], "name": "größe"}
    assert result.stdout.startswith('{\n  "schema": 1')
    assert "größe" in result.stdout


def test_human_views_may_be_parts_and_functions() -> None:
    assert run(lambda: ["first", "", table([["1"]], ["n"])]).stdout == "first\n\nn\n1\n"


def test_long_results_look_like_short_ones_but_for_the_indentation() -> None:
    rows = [[f"run{i}", f"{i / 7:.3f}", "done"] for i in range(400)]
    long = run(lambda: table(rows, ["run", "loss", "status"], marked=399)).stdout.splitlines()
    short = run(lambda: table(rows[-9:], ["run", "loss", "status"], marked=8)).stdout.splitlines()
    assert [line.split() for line in long[-9:]] == [line.split() for line in short[-9:]]
    assert len({line.index("done") for line in long[1:]}) == 1
    value = {"rows": rows * 20, "worst": float("nan")}
    text = run("", "--json", value=value).stdout
    assert json.loads(text) == {"schema": 1, **value, "worst": None} and text.count("\n") == 1


def test_tables_fit_align_and_mark() -> None:
    rows = [["7B", "$1.60M", WIDE], ["13B", "$900", "short"]]
    text = run(lambda: table(rows, ["model", "cost", "why"], marked=1)).stdout
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in text
    assert lines[-1].startswith(">    13B    $900  short")
    assert lines[1].startswith("      7B  $1.60M  a long reason")
    assert lines[0].split() == ["model", "cost", "why"]


def test_a_table_of_many_columns_closes_up_before_it_folds() -> None:
    row = ["b86503d1", "to do", "train", "64", "172K", "1.86M", "3,625", "0.002", "2.28e12", "1 min 55 s"]
    names = ["run", "status", "role", "width", "size", "tokens", "steps", "rate", "FLOPs", "time"]
    head, line = run(lambda: table([row], names)).stdout.splitlines()
    assert line.split() == " ".join(row).split()
    assert len(head) <= 80


def test_a_table_too_wide_goes_on_below_with_every_number_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = [["recommended", "71.9B", "68B to 75B", "8.56e23", "1e24"], ["equal loss", "87.8B", "1", "2", "3"]]
    names = ["model", "params", "", "training", "total"]
    assert run(lambda: table(rows, names, marked=0)).stdout.splitlines() == [
        "   model        params",
        ">  recommended   71.9B  68B to 75B",
        "   equal loss    87.8B  1",
        "",
        "   model        training  total",
        ">  recommended   8.56e23   1e24",
        "   equal loss          2      3",
    ]


def test_rows_that_bring_their_own_marks_keep_their_names_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` went on below with losses and costs beside a `>` alone."""
    monkeypatch.setenv("COLUMNS", "40")
    first, second = ("llama-65b", "65.2B", "1.9759", "5.48e23"), ("palm-540b", "540B", "1.94", "2.53e24")
    rows = [[">", *first, "6.78e23"], ["", *second, "3.61e24"]]
    names = ["", "model", "params", "loss", "train", "total"]
    assert run(lambda: table(rows, names)).stdout.splitlines() == [
        "   model      params    loss    train",
        ">  llama-65b   65.2B  1.9759  5.48e23",
        "   palm-540b    540B    1.94  2.53e24",
        "",
        "   model        total",
        ">  llama-65b  6.78e23",
        "   palm-540b  3.61e24",
    ]


@pytest.mark.parametrize(("columns", "most"), [("40", 40), ("60", 60), ("80", 78), ("200", 78)])
def test_prose_fits_and_is_never_too_wide_to_read(
    monkeypatch: pytest.MonkeyPatch, columns: str, most: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    longest = max(map(len, entry("heading", "word " * 100).splitlines()))
    assert most - 5 < longest <= most


def test_text_in_cells_is_no_markup() -> None:
    assert "[bold]x[/bold] :smile:" in run(lambda: table([["[bold]x[/bold] :smile:"]], ["t"])).stdout


def test_outside_a_command_output_is_plain_talk() -> None:
    assert current_output() == Output(json=False, quiet=False)


def test_options_of_a_group_reach_its_commands() -> None:
    @click.group()
    @json_option
    def above(**_: object) -> None: ...

    @above.command()
    def below() -> None:
        current_output().result({"x": 1}, "human")

    assert json.loads(CliRunner().invoke(above, ["--json", "below"]).stdout)["x"] == 1


@pytest.mark.parametrize(
    ("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_escape_sequences_only_where_they_are_wanted(variables: dict[str, str], coloured: bool) -> None:
    """A real pseudo-terminal, since that is what rich looks for."""
    code = "from llama_scale.cli.output import *; Output().result({}, table([['1']], ['n'], marked=0))"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", **variables}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    assert ("\x1b[" in text) is coloured
    assert "> 1" in text.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("  ", " ")


def test_errors_of_ours_carry_their_code() -> None:
    assert InfeasibleError("no", hint="yes").exit_code == 1
