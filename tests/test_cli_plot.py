"""`llama-scale plot KIND`: every kind writes its picture, and says what is missing and what makes it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from synthetic import LAW

from llama_scale.cli import main
from llama_scale.cli.plot import command
from tests.figures import CURVES, FIT, RECORDS
from tests.test_cli import llama_scale

KINDS = sorted(set(command.commands) - {"kinds"})  # pyright: ignore[reportAttributeAccessIssue]
OF_A_PLAN = ("cost", "loss", "demand", "break-even", "sensitivity")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a kept fit, its records as a store, and a table of loss curves."""
    (tmp_path / "runs" / "imported").mkdir(parents=True)
    (tmp_path / "runs" / "fits").mkdir()
    shutil.copy(RECORDS, tmp_path / "runs" / "imported" / "seed0.json")
    shutil.copy(FIT, tmp_path / "runs" / "fits" / "default.json")
    shutil.copy(CURVES, tmp_path / "curves.csv")
    shutil.copy(CURVES, tmp_path / "runs.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["plot", *words])


def source(kind: str) -> list[str]:
    if kind in OF_A_PLAN:
        return ["--serve-tokens", "1e12"]
    return ["curves.csv"] if kind == "curves" else []


def test_alone_it_names_every_kind() -> None:
    told = json.loads(run("--json").stdout)
    assert [one["kind"] for one in told["kinds"]] == KINDS
    assert all(one["question"].endswith("?") and one["question"] in run().stdout for one in told["kinds"])


def test_a_published_law_is_drawn_however_its_name_is_written(here: Path) -> None:
    assert json.loads(run("optima", "Besiroglu", "-o", "law.svg", "--json").stdout)["law"] == "besiroglu-2024"
    assert "besiroglu-2024 is a published law" in run("isoflop", "BESIROGLU-2024").stderr
    shutil.move("runs", "hoffmann")  # a store of that name is what is meant
    assert json.loads(run("optima", "hoffmann", "-o", "own.svg", "--json").stdout)["law"] == "default-seed0"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_writes_its_picture_and_says_so(here: Path, kind: str) -> None:
    shown = run(kind, *source(kind), "-o", f"{kind}.svg", "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    drawn = (here / f"{kind}.svg").read_bytes()
    assert drawn.startswith(b"<?xml")
    assert told["schema"] == 1
    assert (told["kind"], told["format"], told["bytes"]) == (kind, "svg", len(drawn))
    assert told["title"]
    if kind in OF_A_PLAN:
        assert told["again"].startswith("llama-scale plan --serve-tokens 1e12")


@pytest.mark.parametrize(
    "example",
    [one for kind in ("cost", "break-even", "optima") for one in command.commands[kind].examples],  # pyright: ignore
)
def test_examples_of_the_help_run(here: Path, example: str) -> None:
    shown = CliRunner().invoke(main, shlex.split(example)[1:])
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize("kind", KINDS)
def test_help_is_prose_without_holes(kind: str) -> None:
    opening = run(kind, "--help").stdout.partition("Examples:")[0]
    assert not re.search(r"\S {2,}\S", opening)


def test_a_fit_alone_draws_its_runs(here: Path) -> None:
    shown = run("predictions", "runs/fits/default.json", "--json")
    assert json.loads(shown.stdout)["held_out"] == 2


def test_a_store_finds_the_fit_of_just_its_runs(here: Path) -> None:
    assert json.loads(run("contours", "--json").stdout)["law"] == "default-seed0"
    refused = run("contours", "--where", "tokens > 1e6", "-o", "some.png")
    assert refused.exit_code == 2
    assert "llama-scale fit runs" in refused.stderr


def test_the_command_that_makes_a_missing_law_does_so(here: Path) -> None:
    """Of just the rows that were asked for, and with blanks in a path."""
    rows = [(n, d, LAW.loss(n, d)) for n in np.geomspace(1e4, 1e6, 6) for d in np.geomspace(1e5, 1e8, 6)]
    table = here / "our runs.csv"
    table.write_text("parameters,tokens,loss\n" + "".join(f"{n},{d},{loss}\n" for n, d, loss in rows))
    asked = ("contours", "our runs.csv", "--where", "tokens > 300K")
    refused = run(*asked)
    assert refused.exit_code == 2
    command = refused.stderr.strip().rpartition("fit them first: ")[2].strip("`")
    made = CliRunner().invoke(main, [*shlex.split(command)[1:], "--form", "chinchilla", "--draws", "20"])
    assert made.exit_code == 0, made.output
    assert run(*asked).exit_code == 0


def test_the_law_is_not_replaced_by_the_picture_of_it(here: Path) -> None:
    law = here / "law.png"
    shutil.copy(here / "runs" / "fits" / "default.json", law)
    before = law.read_bytes()
    for words in (("optima", "law.png"), ("cost", "--serve-tokens", "1e12", "--law", str(law))):
        refused = run(*words, "-o", "law.png", "--force")
        assert refused.exit_code == 2
        assert "is read for this" in refused.stderr
    assert law.read_bytes() == before


def test_an_existing_file_is_kept_unless_forced(here: Path) -> None:
    (here / "cost.png").write_text("mine")
    refused = run("cost", "--serve-tokens", "1e12")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert (here / "cost.png").read_text() == "mine"
    assert run("cost", "--serve-tokens", "1e12", "--force").exit_code == 0
    assert (here / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (("cost", "--serve-tokens", "1e12", "-o", "x.jpg"), "cannot write a figure as 'x.jpg'", ".svg"),
        (("cost",), "how many tokens will the model serve", "--serve-tokens"),
        (("break-even", "--serve-tokens", "0"), "no break-even", "--serve-tokens"),
        (("curves",), "no loss curves", "llama-scale sweep"),
        (("curves", "nowhere"), "no run store or table", "llama-scale sweep"),
        (("isoflop", "nowhere"), "no run store or CSV", "llama-scale sweep"),
        (("isoflop", "besiroglu-2024"), "comes without its runs", "plot optima besiroglu-2024"),
        (("optima", "besiroglu-2025"), "or published law called 'besiroglu-2025'", "besiroglu-2024"),
        (("curves", "runs/fits/default.json"), "holds no loss curves", "runs export --curves"),
        (
            ("curves", "runs/imported/seed0.json"),
            "is JSON, which holds no loss curves",
            "runs export --curves",
        ),
        (
            ("residuals", "runs/fits/default.json", "--where", "tokens > 1e6"),
            "just the runs of its law",
            "beside it",
        ),
        (("choice", "nowhere"), "there is no fit", "llama-scale sweep"),
        (("backtest", "besiroglu-2024"), "holds no test", "--backtest"),
        (("choice", "besiroglu-2024"), "nothing was chosen", "llama-scale fit"),
        (("residuals", "runs/fits/default.json", "runs/fits/default.json"), "two laws", "one fit"),
        (("cost", "--serve-tokens", "1e12", "-o", "curves.csv/x.png"), "cannot write", "file stands"),
    ],
)
def test_what_is_wrong_is_told(here: Path, words: tuple[str, ...], what: str, fix: str) -> None:
    shown = run(*words)
    assert shown.exit_code in (1, 2)
    error, hint = shown.stderr.strip().splitlines()[-2:]
    assert what in error
    assert fix in hint


def test_a_place_that_cannot_be_written_names_the_option_that_chooses_it(here: Path) -> None:
    refused = run("optima", "-o", "curves.csv/x.png")
    assert refused.exit_code == 1
    assert refused.stderr.strip().endswith("move it, or choose another file with -o")
    assert run("optima", "-o", "new/folder/x.png").exit_code == 0
    assert (here / "new" / "folder" / "x.png").exists()


def test_a_torn_fit_and_a_torn_table_are_refused(here: Path) -> None:
    text = FIT.read_text()
    (here / "torn.json").write_text(text[: len(text) // 2])
    assert run("contours", "torn.json").exit_code == 2
    (here / "hostile.json").write_text(
        json.dumps(json.loads(text) | {"observations": {"run": ["a"], "parameters": ["x"]}})
    )
    shown = run("contours", "hostile.json")
    assert "does not hold the runs" in shown.stderr
    (here / "torn.csv").write_text(CURVES.read_text().rsplit(",", 1)[0] + ",nan")
    assert "no positive number" in run("curves", "torn.csv").stderr


def test_nothing_heavy_is_loaded_for_a_plan(tmp_path: Path) -> None:
    """A picture of a plan needs neither torch, nor scipy, nor the fitting stage."""
    import subprocess
    import sys

    code = (
        "import sys\nfrom llama_scale.cli import main\n"
        "try:\n    main(sys.argv[2:])\nexcept SystemExit:\n    pass\n"
        "print([m for m in sys.argv[1].split() if m in sys.modules])"
    )
    words = ["plot", "cost", "--serve-tokens", "1e12", "-o", str(tmp_path / "x.png")]
    heavy = "torch scipy llama_scale.fitting matplotlib.pyplot"
    shown = subprocess.run(
        [sys.executable, "-c", code, heavy, *words], capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[-1] == "[]"


def test_the_real_program_exports_and_draws_curves(here: Path) -> None:
    refused = llama_scale("runs", "export", "curves.json", "--curves", cwd=here)
    assert refused.returncode == 2
    assert ".csv" in refused.stderr
    none = llama_scale("runs", "export", "c.csv", "--curves", cwd=here)
    assert none.returncode == 2
    assert "llama-scale sweep" in none.stderr
