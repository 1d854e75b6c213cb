"""The part of `fit`'s report that sets approaches and ways of counting side by side; its options."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llama_scale.cli import main
from llama_scale.cli.fit_approaches import remarks

SWEEP = str(Path(__file__).parents[1] / "sweeps" / "results" / "default-seed0.json")
QUICK = ("--form", "chinchilla", "--draws", "60")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, ["fit", *words])


def content(*words: str) -> dict:
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_report_shows_all_three_with_what_to_beware_of() -> None:
    result = invoke(SWEEP, *QUICK, "--budget", "1e13")
    assert result.exit_code == 0, result.output
    for words in (
        "By approach: N grows as C^a, D as C^b; the best N and D at 1e13 FLOPs:",
        "1 envelope",
        "2 IsoFLOP",
        "3 law",
        "approach 1 final losses of finished runs",
        "the envelope's own bias",
        "the parabolas' own bias",
        "sensitive",
        "which moves",
        "counting",
        "non-embedding N, 6ND",
        "(used here)",
    ):
        assert words in result.stdout, words
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 80


def test_a_way_of_counting_that_gives_no_law_shows_no_numbers() -> None:
    ways = [
        {"convention": "total", "flops": "6nd", "used": True, "unidentified": None}
        | {"exponent_a": 0.5, "parameters": 1e8, "tokens": 2e9},
        {"convention": "non_embedding", "flops": "6nd", "used": False, "unidentified": "it lies on a bound"}
        | {"exponent_a": 0.84, "parameters": 1e7, "tokens": 2e10},
    ]
    ((heading, said),) = remarks({"accounting": {"train_flops": 1e18, "countings": ways}})
    assert heading == "counting"
    assert "total N, 6ND FLOPs: a 0.5, N 100M, D 2B (used here)" in said
    assert said.endswith("non-embedding N, 6ND FLOPs: no law, it lies on a bound")


def test_an_approach_that_is_not_possible_says_why() -> None:
    lines = ["N,D,L"]
    for i in range(12):
        size, tokens = 1e8 * 1.5**i, 2e9 * 1.7 ** ((5 * i) % 12)
        lines.append(f"{size:.0f},{tokens:.0f},{1.8 + 480 / size**0.35 + 2000 / tokens**0.37:.5f}")
    Path("runs.csv").write_text("\n".join(lines))
    result = invoke("runs.csv", *QUICK)
    assert result.exit_code == 0, result.output
    assert "approach 1 not possible: it needs three sizes" in result.stdout
    assert "approach 2 not possible: the runs form no two budgets" in result.stdout
    assert "1 envelope" not in result.stdout


def test_options_of_points_reach_the_fit() -> None:
    plain = content(SWEEP, *QUICK)
    assert plain["points"]["used"] == 36
    assert plain["flops_accounting"] == "exact"
    ruled = content(SWEEP, *QUICK, "--repeats", "best", "--burn-in", "3/N", "--flops", "6nd")
    assert ruled["flops_accounting"] == "6nd"
    assert ruled["points"]["used"] < 24
    assert ruled["points"]["flops_chosen_by"] == "user"
    reasons = {row["reason"].split(":")[0] for row in ruled["exclusions"]}
    assert {"burn-in", "repeats", "a trunk at constant learning rate"} <= reasons
    used = [way for way in ruled["accounting"]["countings"] if way["used"]]
    assert [(way["convention"], way["flops"]) for way in used] == [("matmul", "6nd")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--burn-in", "soon"), "cannot read the burn-in 'soon'"),
        (("--repeats", "worst"), "worst"),
        (("--flops", "guessed"), "guessed"),
    ],
)
def test_bad_options_are_errors_with_hints(words: tuple[str, str], said: str) -> None:
    result = invoke(SWEEP, *words)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_refused_law_leaves_the_approaches_that_need_none() -> None:
    lines = ["N,D,L,C,budget"]
    for budget, loss in ((1e18, 3.0), (1e19, 2.95), (1e20, 2.9), (1e21, 2.36)):  # it falls ever faster
        best = (budget / 120) ** 0.5
        for share in (0.25, 0.5, 1.0, 2.0, 4.0):
            bowl = 0.05 * math.log(share) ** 2 + 0.001 * math.sin(1e3 * share)
            size = best * share
            lines.append(f"{size:.6g},{budget / 6 / size:.6g},{loss + bowl:.5f},{budget:g},{budget:g}")
    Path("runs.csv").write_text("\n".join(lines))
    result = invoke("runs.csv", *QUICK)
    assert result.exit_code == 1
    assert "lies on a bound of E" in result.stderr
    assert ",;" not in result.stderr
    assert "The law is refused. What the runs say without one:" in result.stdout
    assert "2 IsoFLOP" in result.stdout
    assert "3 law" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    told = json.loads(invoke("runs.csv", *QUICK, "--json").stdout)
    assert [one["approach"] for one in told["approaches"]] == [1, 2]
    assert told["approaches"][1]["exponent_a"] == pytest.approx(0.5, abs=0.02)
    assert told["diagnostics"]["at_bound"] == ["E"]
