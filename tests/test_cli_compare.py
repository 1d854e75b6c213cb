"""`llama-scale compare` through the real program."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from llama_scale.cli.compare import command
from llama_scale.cli.plan import command as plan_command
from llama_scale.planning import ONLY_PLANNED, PlanOptions

ISSUE = ["llama-65b", "chinchilla-70b", "gpt-3-175b", "palm-540b", "--serve-tokens", "1e12"]


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llama_scale", "compare", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def shown(*words: str) -> str:
    return CliRunner().invoke(command, list(words), catch_exceptions=False).output


def test_the_command_of_the_issue_in_80_columns() -> None:
    found = run(*ISSUE)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert lines[0].startswith("Serving 1T tokens, ")
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 50
    said = " ".join(found.stdout.split())
    assert "trained on its own data" in said  # as if trained on the law's data
    assert "llama-scale compare llama-65b chinchilla-70b gpt-3-175b palm-540b --serve-tokens 1e12" in said
    headings = {line[:11].strip() for line in lines}
    assert {"caution", "assumes", "again", "next"} <= headings


def test_json_has_every_number_in_base_units() -> None:
    found = json.loads(run(*ISSUE, "--json").stdout)
    assert found["schema"] == 1
    assert [model["name"] for model in found["models"]] == ISSUE[:4]
    keys = {"parameters", "tokens", "loss_nats", "loss_interval", "overtraining", "excess_compute"}
    keys |= {"train_flops", "serve_flops", "total_flops", "train_usd", "serve_usd", "total_usd", "break_even"}
    assert all(keys <= model.keys() for model in found["models"])
    assert len(found["pairs"]) == 6
    pair = found["pairs"][0]
    assert pair["cheaper"] in ("always", "never", "from", "up to")
    assert set(pair["by_unit"]) == {"flops", "gpu_hours", "usd"}
    assert found["law"]["name"] == "besiroglu-2024"
    assert found["assumptions"]
    assert "its own data" in found["caution"]


def test_a_cold_comparison_loads_numpy_alone() -> None:
    heavy = ("torch", "scipy", "matplotlib", "rich", "cattrs", "pandas", "numpy.ma")
    code = (
        "import sys\nfrom llama_scale.cli import main\n"
        "try:\n    main(sys.argv[1:], prog_name='llama-scale')\n"
        "except SystemExit as end:\n    code = end.code\n"
        f"print(code, sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, "compare", *ISSUE, "--json"], capture_output=True, text=True, check=True
    )
    assert found.stderr.strip() == "0 []"


def test_tables_for_documents_and_spreadsheets() -> None:
    assert shown(*ISSUE, "--format", "md").startswith("**Serving 1T tokens")
    rows = list(csv.DictReader(io.StringIO(shown(*ISSUE, "--format", "csv"))))
    assert [row["name"] for row in rows] == ISSUE[:4]
    assert float(rows[0]["train_flops"]) == pytest.approx(6 * 65.2e9 * 1.4e12)


@pytest.mark.parametrize("example", command.examples)  # pyright: ignore[reportAttributeAccessIssue]
def test_the_examples_of_the_help_run(example: str) -> None:
    found = CliRunner().invoke(command, shlex.split(example)[2:], catch_exceptions=False)
    assert found.exit_code == 0


def test_many_models_leave_the_pairs_to_json() -> None:
    models = ["llama-7b", "llama-13b", "llama-33b", "llama-65b", "gpt-3", "palm", "chinchilla"]
    assert "21 pairs" in shown(*models)
    assert max(map(len, shown(*models).splitlines())) <= 80


def test_options_are_those_of_plan() -> None:
    known = {parameter.name: parameter for parameter in plan_command.params}
    ours = {parameter.name: parameter for parameter in command.params}
    for name in ("law", "flops", "accelerator", "price", "mfu", "utilisation", "cost_in", "level"):
        assert ours[name] is known[name]
    assert not ours.keys() & {"budget", "target_loss", "match", "explain"}
    assert PlanOptions.__annotations__.keys() - ours.keys() == set(ONLY_PLANNED)


def test_the_command_asks_for_the_same_comparison() -> None:
    first = json.loads(
        shown(*ISSUE, "--price", "$2/h", "--law", "E=1.69,A=406.4,B=410.7,alpha=.336,beta=.283", "--json")
    )
    again = json.loads(shown(*shlex.split(first["command"])[2:], "--json"))
    assert again["models"] == first["models"]
    assert again["command"] == first["command"]


@pytest.mark.parametrize(
    ("words", "code", "error", "hint"),
    [
        ("", 2, "which models", "llama-65b"),
        ("llama-66b", 2, "unknown model 'llama-66b'", "llama-65b"),
        ("missing.toml", 2, "missing.toml", "path"),
        ("llama-7b --accelerator mi300x", 2, "no price for MI300X", "--price"),
        ("llama-7b --budget 1e24", 2, "--budget", ""),
        ("llama-7b --recompute full", 2, "--recompute", ""),
        ("llama-7b --serve-tokens -3", 2, "-3", ""),
    ],
)
def test_every_refusal_is_an_error_and_a_hint(
    words: str, code: int, error: str, hint: str, tmp_path: Path
) -> None:
    found = run(*shlex.split(words), cwd=tmp_path)
    assert found.returncode == code
    assert found.stdout == ""
    said = found.stderr.splitlines()
    assert said[0].startswith("error: ")
    assert error in said[0]
    assert said[-1].startswith("hint: ")
    assert hint in said[-1]
