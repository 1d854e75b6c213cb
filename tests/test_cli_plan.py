"""`llama-scale plan` through the real program."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from drawn import drawn_fit

from llama_scale.cli.output import entry, wrapped
from llama_scale.cli.plan import command
from llama_scale.laws import write_fit

MODEL_KEYS = {
    *("parameters", "tokens", "tokens_per_parameter", "loss_nats"),
    *("train_flops", "serve_flops", "total_flops", "train_usd", "serve_usd", "total_usd"),
}


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llama_scale", "plan", *words],
        cwd=cwd,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def write_drawn_fit(path: Path) -> Path:
    """A fit's file with draws, as the fitting stage writes it."""
    return write_fit(path, drawn_fit(1000, name="mine", draws_note="drawn"))


def test_long_words_such_as_paths_are_never_broken() -> None:
    path = "a/" * 60
    for text in (wrapped(f"Train it on {path}."), wrapped(path, indent=3), entry("written", f"{path}, 8 kB")):
        assert path in text


def test_what_the_table_counts_is_told_in_80_columns() -> None:
    words = ["--serve-tokens", "1e9", "--match", "llama-7b", "--cost-in", "gpu-hours", "--law", "kaplan-2020"]
    shown = CliRunner().invoke(command, words, catch_exceptions=False)
    assert max(map(len, shown.output.splitlines())) <= 80


def test_the_demand_alone_is_answered_in_80_columns() -> None:
    shown = run("--serve-tokens", "1e12")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("Train ")
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown.stdout
    assert next(line for line in lines if line.startswith(">")).split()[1] == "recommended"
    headings = {line[:11].strip() for line in lines}
    assert {"shape", "saves", "flat", "binds", "interval", "warning", "assumes", "again", "next"} <= headings
    assert "our default budget" in shown.stdout


def test_json_keeps_the_contract(tmp_path: Path) -> None:
    fit = write_drawn_fit(tmp_path / "mine.json")
    shown = run("--serve-tokens", "1e12", "--law", str(fit), "--budget", "1e23", "--json")
    assert shown.returncode == 0, shown.stderr
    answer = json.loads(shown.stdout)
    assert answer["schema"] == 1
    for model in ("recommended", "optimum", "compute_optimal"):
        assert answer[model].keys() >= MODEL_KEYS
        parts = answer[model]["train_flops"] + answer[model]["serve_flops"]
        assert answer[model]["total_flops"] == pytest.approx(parts)
    assert answer["optimum"]["parameters"] == pytest.approx(1.493e10, rel=3e-4)
    assert answer["recommended"]["architecture"]["parameters"]["total"] == answer["recommended"]["parameters"]
    assert answer["intervals"]["level"] == 0.9
    for name in ("parameters", "tokens", "loss_nats", "total_flops", "total_usd"):
        low, high = answer["intervals"][name]
        assert low <= high
    assert answer["constraints"]["binding"] == "total budget"
    assert set(answer["extrapolation"]) == {"train_flops", "parameters", "tokens", "tokens_per_parameter"}
    assert {"saving", "law", "warnings", "assumptions", "command"} <= answer.keys()
    assert all(assumption["source"] for assumption in answer["assumptions"])


def test_a_law_without_draws_has_no_interval_but_a_reason() -> None:
    shown = run("--serve-tokens", "1e12", "--law", "hoffmann-2022", "--json")
    answer = json.loads(shown.stdout)
    assert answer["intervals"] is None
    assert "covariance" in answer["intervals_note"]


def test_a_cold_plan_loads_numpy_alone(tmp_path: Path) -> None:
    fit = write_drawn_fit(tmp_path / "mine.json")
    heavy = ("torch", "scipy", "matplotlib", "rich", "cattrs", "pandas", "numpy.ma")
    code = (
        "import sys\nfrom llama_scale.cli import main\n"
        "try:\n    main(sys.argv[1:], prog_name='llama-scale')\n"
        "except SystemExit as end:\n    code = end.code\n"
        f"print(code, sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, "plan", "--serve-tokens", "1e12", "--law", str(fit), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr.strip() == "0 []"


@pytest.mark.parametrize("example", command.examples)  # pyright: ignore[reportAttributeAccessIssue]
def test_the_examples_of_the_help_run(example: str) -> None:
    shown = CliRunner().invoke(command, shlex.split(example)[2:], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "Train " in shown.output


def test_explain_puts_numbers_into_every_formula() -> None:
    shown = CliRunner().invoke(
        command, ["--serve-tokens", "1e12", "--budget", "$2M", "--explain"], catch_exceptions=False
    )
    for heading in (
        "loss",
        "optimum",
        "training FLOPs",
        "serving GPU-hours",
        "serving dollars",
        "training MFU",
    ):
        assert f"\n{heading} " in shown.output
    assert "x $2.95 =" in shown.output
    assert "2026-05" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80


def test_exact_flops_and_other_conventions_are_explained() -> None:
    words = ["--serve-tokens", "1e10", "--budget", "1e20", "--law"]
    law = "E=1.69,A=406.4,B=410.7,alpha=.336,beta=.283,convention=non_embedding"
    exact = CliRunner().invoke(
        command, [*words, law, "--flops", "exact", "--explain"], catch_exceptions=False
    )
    assert "non-embedding parameters" in exact.output
    assert "matrix weights" in exact.output
    sixnd = CliRunner().invoke(command, [*words, law, "--flops", "6nd"], catch_exceptions=False)
    assert "6ND and 2NT count the law's own N" in " ".join(sixnd.output.split())


def test_tables_for_documents_and_spreadsheets() -> None:
    words = ["--serve-tokens", "1e12", "--match", "llama-13b"]
    markdown = CliRunner().invoke(command, [*words, "--format", "md"], catch_exceptions=False).output
    assert markdown.startswith("**Train ")
    assert markdown.count("\n| ") >= 3
    table = CliRunner().invoke(command, [*words, "--format", "csv"], catch_exceptions=False).output
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["model"] for row in rows] == ["recommended", "optimum", "compute_optimal"]
    assert float(rows[1]["loss_nats"]) == pytest.approx(float(rows[2]["loss_nats"]))


def test_markdown_says_all_that_the_terminal_says() -> None:
    words = ["--serve-tokens", "1e11..1e13", "--budget", "$2M"]
    runner = CliRunner()

    def shown(*more: str) -> str:
        return runner.invoke(command, [*words, "--format", "md", *more], catch_exceptions=False).output

    brief, explained, moved = shown(), shown("--explain"), shown("--sensitivity")
    assert "| planned for | params |" in brief
    assert "$2.95/h (2026-05)" in brief
    assert "*next*: formulas, recipe, sources: --explain" in brief
    assert "| input | at |" in moved
    assert "| input | at |" in explained
    assert "| input | at |" not in brief
    spoken = json.loads(
        runner.invoke(command, [*words, "--json", "--explain"], catch_exceptions=False).output
    )
    for formula in spoken["formulas"]:
        assert f"`{formula['formula']}`, `{formula['numbers']}` ({formula['source']})" in explained
    for item in spoken["assumptions"]:
        assert f"| {item['name']} | {item['value']} | {item['source']} | {item['date']} |" in explained


@pytest.mark.parametrize("added", ["--explain", "--sensitivity"])
def test_lines_of_models_have_no_place_for_more(added: str) -> None:
    shown = run("--serve-tokens", "1e12", "--format", "csv", added)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert f"error: {added} adds what --format csv" in shown.stderr


@pytest.mark.parametrize("form", ["text", "md", "csv"])
@pytest.mark.parametrize(
    "words", ["--accelerators 100000 --deadline 233d", "--budget 1e27", "--target-loss 1.87 --explain"]
)
def test_a_model_that_nothing_serves_is_said_to_be_one(words: str, form: str) -> None:
    asked = ["--serve-tokens", "1e12", *words.split(), "--format", form]
    if form == "csv":  # which has no place for formulas
        asked = [word for word in asked if word != "--explain"]
    shown = CliRunner().invoke(command, asked, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "nan" not in shown.output
    if form != "csv":
        assert "cannot be: the model in 16 bits takes" in " ".join(shown.output.replace("*", "").split())


@pytest.mark.parametrize(
    ("words", "code", "error", "hint"),
    [
        ("", 2, "how many tokens", "--serve-tokens 1e12"),
        ("--serve-tokens abc", 2, "is not a count", "1e12"),
        ("--serve-tokens $5", 2, "is dollars", "1.4T"),
        ("--serve-tokens 1e12 --budget 7B", 2, "is a count", "1M GPU-hours"),
        ("--serve-tokens 1e12 --budget 1e40", 2, "out of all proportion", "1e24"),
        ("--serve-tokens 1e12 --law besirglu", 2, "published law", "besiroglu-2024"),
        ("--serve-tokens 1e12 --accelerator h1000", 2, "unknown accelerator", "H100-SXM"),
        ("--serve-tokens 1e12 --accelerator mi300x", 2, "no price for MI300X", "--price"),
        ("--serve-tokens 1e12 --target-loss 1.5", 1, "floor is 1.8172", "--target-loss 1.87"),
        ("--serve-tokens 1e12 --target-loss 1.95 --budget 1e23", 1, "times the budget", "--target-loss 2.0"),
        ("--serve-tokens 1e12 --law missing.json", 2, "missing.json", ""),
        ("--serve-tokens 1e12 --budgett 3", 2, "--budgett", "--budget"),
    ],
)
def test_every_refusal_is_an_error_and_a_hint(
    words: str, code: int, error: str, hint: str, tmp_path: Path
) -> None:
    shown = run(*shlex.split(words), cwd=tmp_path)
    assert shown.returncode == code
    assert shown.stdout == ""
    said = shown.stderr.splitlines()
    assert len(said) == 2
    assert said[0].startswith("error: ")
    assert error in said[0]
    assert said[1].startswith("hint: ")
    assert hint in said[1]


def test_a_refusal_is_json_too() -> None:
    shown = run("--serve-tokens", "1e12", "--target-loss", "1.5", "--json")
    assert shown.returncode == 1
    refusal = json.loads(shown.stdout)
    assert refusal["schema"] == 1
    assert "floor" in refusal["error"]
    assert refusal["hint"]


def test_the_law_is_never_taken_from_the_working_directory(tmp_path: Path) -> None:
    write_drawn_fit(tmp_path / "runs" / "fits" / "default.json")
    write_drawn_fit(tmp_path / "law.json")
    answer = json.loads(run("--serve-tokens", "1e12", "--json", cwd=tmp_path).stdout)
    assert answer["law"]["name"] == "besiroglu-2024"
