"""`llama-scale fit`, through the real command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from synthetic import sweep

from llama_scale.cli import main
from llama_scale.laws import read_fit
from tests.figures import RECORDS


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, ["fit", *words])


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep as CSV, with its held-out runs, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    runs = sweep(0, held_out=True)
    assert runs.held_out is not None
    lines = ["run,parameters_matmul,tokens,loss,budget,family,role"]
    for part, role in ((runs, "train"), (runs.held_out, "holdout")):
        lines += [
            f"{part.names[i]},{part.parameters[i]:.0f},{part.tokens[i]:.0f},{part.loss[i]:.6f},"
            f"{part.budgets[i]:.6g},{part.families[i]},{role}"
            for i in range(len(part))
        ]
    path = tmp_path / "sweep.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_answer_comes_first_and_the_next_command_last(table: Path) -> None:
    result = invoke(str(table), "--draws", "60")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Loss falls as L = ")
    for word in (
        "constant",
        "90% interval",
        "IsoFLOP",
        "Runs that the law never saw",
        "backtest",
        "starts agree",
    ):
        assert word in result.stdout
    assert max(map(len, lines[:-1])) <= 80
    command = lines[-1].removeprefix("next").strip()
    file = Path(command.split("--law ")[1].split()[0])
    assert read_fit(file).name == "sweep"
    planned = CliRunner().invoke(main, [*command.split()[1:], "--json"])
    assert planned.exit_code == 0, planned.output


def test_json_is_one_object_on_stdout(table: Path) -> None:
    result = invoke(str(table), "--draws", "60", "--json", "--output", "law.json")
    content = json.loads(result.stdout)
    assert content["schema"] == 1
    assert content["file"] == "law.json"
    assert content["selection"]["draws"] == 60
    assert len(content["held_out"]) == 3
    assert "draws" not in content
    assert len(json.loads(Path("law.json").read_text())["draws"]["E"]) == 60


def test_nothing_is_overwritten_without_force(table: Path) -> None:
    words = [str(table), "--draws", "0", "--output", "law.json"]
    assert invoke(*words).exit_code == 0
    again = invoke(*words)
    assert again.exit_code != 0
    assert "law.json exists already" in again.output
    assert invoke(*words, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ([], "sweep.csv"),
        (["--form", "multi-power"], "./sweep.csv"),
        (["--scores", "scores.csv"], "scores.csv"),
        (["--form", "repeated", "--base-law", "scores.csv"], "scores.csv"),
        ([], "link.csv"),
    ],
)
def test_what_is_read_is_never_replaced(table: Path, words: list[str], output: str) -> None:
    Path("scores.csv").write_text("loss,score\n")
    Path("link.csv").symlink_to("sweep.csv")
    before = Path(output).read_bytes()
    result = invoke("sweep.csv", *words, "--output", output, "--force")
    assert result.exit_code == 2
    assert "is read for this, so it cannot be replaced" in result.output
    assert Path(output).read_bytes() == before


def test_a_file_in_the_way_is_told_before_any_run_is_read(tmp_path: Path) -> None:
    law = tmp_path / "law.json"
    law.write_text("{}")
    assert f"{law} exists already" in invoke("nowhere", "--output", str(law)).output


def test_the_default_place_is_the_same_for_the_same_fit(table: Path) -> None:
    files = [json.loads(invoke(str(table), "--draws", "0", "--json").stdout)["file"] for _ in range(2)]
    other = json.loads(invoke(str(table), "--draws", "0", "--json", "--delta", "0.5").stdout)["file"]
    assert files[0] == files[1] != other


def test_filters_budgets_and_conventions_reach_the_fit(table: Path) -> None:
    words = [
        "--draws",
        "0",
        "--json",
        "--where",
        "family != w96",
        "--budget",
        "1e14",
        "--convention",
        "matmul",
    ]
    content = json.loads(invoke(str(table), *words).stdout)
    assert content["n_observations"] == 30
    assert [row["train_flops"] for row in content["optima"]] == [1e14]
    assert {e["reason"] for e in content["exclusions"]} == {"not family != w96"}


def test_without_draws_no_run_is_said_to_lie_inside_or_outside(table: Path) -> None:
    shown = invoke(str(table), "--form", "chinchilla", "--draws", "0", "--level", "80%").stdout
    (line,) = [line for line in shown.splitlines() if "never saw" in line]
    assert line.startswith("Runs that the law never saw (worst error")
    assert "% interval" not in shown


def test_flops_that_are_not_6nd_are_said_to_be_counted_otherwise(table: Path) -> None:
    header, *rows = table.read_text().splitlines()
    counted = [f"{row},{6.6 * float(row.split(',')[1]) * float(row.split(',')[2]):.8g}" for row in rows]
    table.write_text("\n".join([f"{header},train_flops", *counted]) + "\n")
    words = (str(table), "--form", "chinchilla", "--draws", "0")
    assert "C is counted as the runs count it: 1.1 times 6ND" in invoke(*words).stdout
    assert "C is counted" not in invoke(*words, "--flops", "6nd").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["absent.csv"], "no run store or CSV at 'absent.csv'"),
        ([], "llama-scale sweep"),
        (["circle"], "no run store or CSV at 'circle'"),
        (["sweep.csv", "--where", "nonsense"], "cannot read the filter"),
        (["sweep.csv", "--where", "famly = w16"], "no column 'famly'"),
        (["sweep.csv", "--where", "family = w16"], "1 size"),
        (["sweep.csv", "--draws", "3"], "3 draws make no interval"),
        (["sweep.csv", "--draws", "-1"], "-1 draws make no interval"),
        (["sweep.csv", "--draws", "1000000000"], "1,000,000,000 draws are too many: 100,000 are the most"),
        (["sweep.csv", "--level", "99.99999%"], "level 0.9999999 takes more than 100,000 draws"),
        (["sweep.csv", "--draws", "100", "--level", "99%"], "100 draws make no interval of 99%"),
        (["sweep.csv", "--level", "99.9%"], "use --draws 2000"),
        (["sweep.csv", "--seed", "-1"], "seed is -1"),
        (["sweep.csv", "--budget", "0"], "no law has an optimum at 0 FLOPs"),
        (["sweep.csv", "--convention", "total"], ""),
    ],
)
def test_bad_input_is_an_error_with_a_hint(table: Path, words: list[str], said: str) -> None:
    (table.parent / "circle").symlink_to("circle")
    result = invoke(*words)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert "Traceback" not in result.output


def test_published_data_through_the_command(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(shared_data / "chinchilla.csv")
    result = invoke(
        path, "--where", "excluded_by_besiroglu = 0", "--form", "chinchilla", "--draws", "100", "--json"
    )
    content = json.loads(result.stdout)
    assert content["objective"] <= 1.0182741e-3
    assert content["n_observations"] == 240
    assert any("taken as total" in warning for warning in content["warnings"])


def test_the_whole_procedure_is_tested_on_request(table: Path) -> None:
    words = [str(table), "--draws", "40", "--delta", "1e-2", "--weights", "none", "--backtest"]
    shown = invoke(*words)
    assert shown.exit_code == 0, shown.output
    assert "Held out from all of it: 12 runs farthest in compute" in shown.stdout
    assert "farthest in tokens per parameter" in shown.stdout
    for words_of_a_mean in (
        "mean of 3 candidates",
        "every candidate's error on them, [nearest to that mean]:",
        "starts agree on the optimum of the candidate nearest to the law",
        "constants: refits by those that are heard, before they waver",
    ):
        assert words_of_a_mean in " ".join(shown.stdout.split())
    named = invoke(str(table), "--draws", "40", "--form", "tied", "--backtest").stdout
    assert "nearest" not in named and "starts agree on the optimum;" in named
    assert "constants: given the form" in " ".join(named.split())
    assert max(map(len, shown.stdout.splitlines()[:-1])) <= 80
    content = json.loads(invoke(*words, "--json").stdout)
    assert [verdict["direction"] for verdict in content["backtest"]["protocol"]] == [
        "compute",
        "overtraining",
    ]


def test_form_delta_weights_and_direction_can_be_pinned(table: Path) -> None:
    words = [str(table), "--draws", "0", "--json", "--form", "tied"]
    plain = json.loads(invoke(*words).stdout)["selection"]
    assert (plain["form"], plain["delta"], plain["weights"], plain["candidates"]) == (
        "tied",
        1e-3,
        "none",
        [],
    )
    pinned = json.loads(
        invoke(*words, "--delta", "0.01", "--weights", "0.5", "--direction", "overtraining").stdout
    )["selection"]
    assert (pinned["delta"], pinned["weights"]) == (0.01, "(C/Cmax)^0.5")
    assert pinned["direction"] == ["overtraining"]
    assert {pinned[f"{name}_chosen_by"] for name in ("form", "delta", "weights")} == {"user"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weights", "much"], "no power of compute"),
        (["--weights", "7"], "between 0 and 2"),
        (["--direction", "sideways"], "is not one of"),
    ],
)
def test_words_that_mean_nothing_are_refused(table: Path, words: list[str], said: str) -> None:
    result = invoke(str(table), *words)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert "Traceback" not in result.output


def test_profiles_are_shown_and_kept_where_asked_for(table: Path) -> None:
    result = invoke(str(table), "--form", "chinchilla", "--draws", "0", "--profile", "--json")
    found = json.loads(result.stdout)["profile"]
    assert set(found["intervals"]) == {"E", "A", "B", "alpha", "beta", "exponent_a"}
    assert found["scipy"]["gap"] > -1e-6
    assert "by profile" in invoke(str(table), "--form", "tied", "--draws", "0", "--profile").output


def test_filters_are_whole_in_a_variable(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filters = ["tokens > 2e5", "loss < 4.2"]
    given = [word for each in filters for word in ("--where", each)]
    asked = json.loads(invoke(str(table), *given, "--draws", "0", "--json").stdout)
    monkeypatch.setenv("LLAMA_SCALE_FIT_WHERE", "; ".join(filters))
    by_variable = json.loads(invoke(str(table), "--draws", "0", "--json").stdout)
    assert by_variable["n_observations"] == asked["n_observations"] < 36
    assert by_variable["objective"] == asked["objective"]


def test_what_sweeps_keep_their_runs_in_is_where_fits_look_and_lie(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "elsewhere"
    (store / "imported").mkdir(parents=True)
    shutil.copy(RECORDS, store / "imported" / "seed0.json")
    of_store = json.loads(invoke("--store", str(store), "--draws", "0", "--json").stdout)
    assert of_store["parameter_convention"] == "matmul"
    monkeypatch.setenv("LLAMA_SCALE_STORE", str(store))
    of_table = json.loads(invoke(str(table), "--draws", "0", "--json").stdout)
    for told in (of_store, of_table):
        assert Path(told["file"]).parent == store / "fits"
    for source, told in (([], of_store), ([str(table)], of_table)):
        drawn = CliRunner().invoke(main, ["plot", "isoflop", *source, "--force", "--json"])
        assert json.loads(drawn.stdout)["law"] == told["name"]
    assert not Path("runs").exists()
