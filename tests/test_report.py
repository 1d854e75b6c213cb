"""The page of a plan as a file: whole, small, self-contained, and proof against hostile text."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from drawn import drawn_fit

from llama_scale import plan
from llama_scale.cli import main
from llama_scale.costs.roofline import ServedShape
from llama_scale.errors import InputError, StoreError, UnidentifiedError
from llama_scale.laws import published, read_fit, write_fit
from llama_scale.planning import Plan, compare
from llama_scale.report import DATA, page, write_report
from llama_scale.report.alternatives import alternatives, holders
from llama_scale.report.controls import controls
from llama_scale.report.evidence import MOST_RUNS, evidence_values
from llama_scale.report.markup import as_data, filled, tag, text
from llama_scale.report.problem import settings_of

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{plan}}\u2028&amp;'\""


class Elements(HTMLParser):
    """The elements of a page, with their attributes; texts of scripts by id; all other text."""

    def __init__(self, whole: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.words: list[str] = []
        self.feed(whole)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(("", {}))

    def handle_data(self, data: str) -> None:
        name, attributes = self.found[-1] if self.found else ("", {})
        if name == "script":
            key = attributes.get("id") or "code"
            self.scripts[key] = self.scripts.get(key, "") + data
        else:
            self.words.append(data)


@pytest.fixture(scope="module")
def answer() -> Plan:
    return plan(serve_tokens="10T", budget="$5M")


def test_the_page_holds_the_plan_whole_with_its_hash_and_command(answer: Plan) -> None:
    elements = Elements(page(answer))
    held = elements.scripts["plan"]
    assert json.loads(held) == {"schema": 1, **json.loads(json.dumps(answer.to_json()))}
    words = " ".join(elements.words)
    assert hashlib.sha256(held.encode()).hexdigest() in words
    assert answer.sentence in words
    assert "llama-scale plan --serve-tokens 10T --budget '$5M' --law besiroglu-2024 --flops 6nd" in words


@pytest.mark.parametrize(
    "words",
    [
        {"serve_tokens": "1e12"},
        {"serve_tokens": "1e11..1e13", "budget": "$2M", "against": "llama-2-70b"},
        {
            "serve_tokens": "20B/month",
            "months": 36,
            "growth": "5%/month",
            "retrain_every": 12,
            "budget": "$5M",
        },
        {"serve_tokens": "1e12", "unique_tokens": "200B"},
    ],
    ids=lambda words: "-".join(words),
)
def test_it_is_small_and_asks_for_nothing_from_outside(words: dict[str, str]) -> None:
    whole = page(plan(**words))  # pyright: ignore[reportArgumentType]
    assert len(whole.encode()) < 200_000
    for name, attributes in Elements(whole).found:
        assert name not in {"iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes
        assert not any(key.startswith("on") for key in attributes)
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)", whole)
    assert "@import" not in whole


def test_hostile_text_stays_text() -> None:
    fit = replace(drawn_fit(), name=HOSTILE, source=HOSTILE, draws_note=HOSTILE)
    evidence = {
        "observations": {
            "run": [HOSTILE], "parameters": [1e9], "tokens": [2e10],
            "train_flops": [1.2e20], "loss_nats": [2.5],
        },
        "provenance": {"observations_hash": HOSTILE, "sources": [HOSTILE], "llama_scale": HOSTILE},
    }  # fmt: skip
    asked = plan(serve_tokens="1e12", law=replace(fit, evidence=evidence))
    elements = Elements(page(asked))
    names = [name for name, _ in elements.found]
    assert names.count("script") == 3
    assert "img" not in names
    assert "alert(1)" in " ".join(elements.words)
    assert json.loads(elements.scripts["plan"])["law"]["name"] == HOSTILE
    assert json.loads(elements.scripts["data"])["evidence"]["runs"]["run"][0].startswith(HOSTILE[:16])


def test_only_its_own_script_and_style_may_run(answer: Plan) -> None:
    whole = page(answer)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', whole)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]


def test_an_existing_file_is_kept_unless_it_may_be_replaced(answer: Plan, tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    file.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_report(answer, file)
    assert file.read_text() == "mine"
    assert write_report(answer, file, overwrite=True).read_text() == page(answer)


def test_what_cannot_be_written_is_said_with_a_way_out(answer: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write") as raised:
        write_report(answer, tmp_path / "file" / "plan.html", overwrite=True)
    assert "--store" not in raised.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_law_without_draws_has_no_band_and_says_so() -> None:
    asked = plan(serve_tokens="1e12", law="hoffmann-2022")
    elements = Elements(page(asked))
    data = json.loads(elements.scripts["data"])
    assert data["problem"]["draws"] is data["intervals"] is data["evidence"]["frontier"]["low"] is None
    assert data["draws_note"] == published("hoffmann-2022").draws_note
    assert "How sure the law is of it is not known" in " ".join(elements.words)


@pytest.mark.parametrize("law", ["kaplan-2020", "E=0,A=400,B=2000,alpha=.35,beta=.37,k=.3"])
def test_a_law_without_a_floor_is_told_wherever_a_plan_is(law: str) -> None:
    words = ["--serve-tokens", "1e12", "--law", law]
    asked = plan(serve_tokens="1e12", law=law)
    compared = compare("llama-7b", serve_tokens="1e12", law=law)
    told = [" ".join(asked.warnings), " ".join(compared.warnings), " ".join(Elements(page(asked)).words)]
    for command in (["plan"], ["plan", "--json"], ["plan", "--format", "md"], ["compare", "llama-7b"]):
        told.append(" ".join(CliRunner().invoke(main, [*command, *words]).output.split()))
    assert [text.count("no irreducible loss (E = 0)") for text in told] == [1] * len(told)
    assert not any("irreducible" in text for text in plan(serve_tokens="1e12").warnings)


def test_a_mean_of_fits_most_of_which_have_no_floor_is_told_too() -> None:
    law = read_fit(Path(__file__).parents[1] / "sweeps" / "results" / "default-seed0-fit.json")
    assert law.law.E > 0 and law.at_bound == ("E",)
    (told,) = [text for text in plan(serve_tokens="1e12", law=law).warnings if "irreducible" in text]
    assert "fits with E = 0, which fall for ever, are no worse" in told


def test_a_model_that_nothing_serves_has_no_bill_to_move() -> None:
    elements = Elements(page(plan(serve_tokens="1e12", budget=1e27)))
    assert "has no bill to move" in " ".join(elements.words)
    assert not [shown for _, given in elements.found for shown in given.values() if shown == "nan"]
    assert "$nan" not in " ".join(elements.words)


def test_a_refused_fit_gives_no_page(tmp_path: Path) -> None:
    law = replace(published(), name="refused", evidence={"diagnostics": {"at_bound": ["alpha"]}})
    write_fit(tmp_path / "law.json", law)
    words = [
        "report",
        "--serve-tokens",
        "1e12",
        "--law",
        f"{tmp_path}/law.json",
        "-o",
        f"{tmp_path}/plan.html",
    ]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == UnidentifiedError.exit_code
    assert "refused" in shown.stderr
    assert not (tmp_path / "plan.html").exists()


@pytest.mark.parametrize(
    "evidence",
    [
        {"observations": {"run": ["a"], "parameters": ["x"], "tokens": [1e9]}},
        {"observations": {"run": ["a"], "parameters": [1e9], "tokens": []}},
        {"held_out": [{"run": "a"}]},
        {"held_out": 3},
        {"provenance": {"observations_hash": 1, "sources": 5}},
        {"backtest": {"predicted_runs": 3}},
    ],
    ids=str,
)
def test_broken_evidence_is_refused_by_name(evidence: dict[str, object]) -> None:
    with pytest.raises(InputError, match="evidence in the law drawn cannot be read"):
        page(plan(serve_tokens="1e12", law=drawn_fit(20, evidence=evidence)))


def test_the_commands_write_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(main, ["report", "--serve-tokens", "1e12", "--json"])
    assert shown.exit_code == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found["path"] == "plan.html"
    assert found["bytes"] == (tmp_path / "plan.html").stat().st_size
    again = CliRunner().invoke(main, ["plan", "--serve-tokens", "1e12", "--html", "plan.html"])
    assert again.exit_code == 2
    assert "--force" in again.stderr
    forced = CliRunner().invoke(main, ["plan", "--serve-tokens", "1e12", "--html", "plan.html", "--force"])
    assert forced.exit_code == 0
    assert forced.stdout.startswith("Train ")


@pytest.mark.parametrize("words", [["report", "-o"], ["plan", "--html"]])
@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("here", "here is a folder", "here/plan.html"),
        ("x.pdf", "is HTML, which 'x.pdf' does not say", "end its name with .html"),
        ("x", "is HTML", ".html"),
        ("file/x.html", "cannot write file/x.html", "a folder that you may write to"),
    ],
)
def test_a_place_that_no_page_can_have_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], name: str, what: str, fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    shown = CliRunner().invoke(main, [*words, name, "--serve-tokens", "1e12"])
    assert shown.exit_code in (1, 2)
    error, hint = shown.stderr.strip().splitlines()[-2:]
    assert what in error
    assert fix in hint


def test_every_control_has_the_plan_within_its_reach(answer: Plan) -> None:
    for asked in (
        answer,
        plan(serve_tokens=0, target_loss=2.0),
        plan(serve_tokens="1e12", accelerator="a100"),
    ):
        settings = settings_of(asked)
        settings["budget"] = settings["budget"] or 1e24
        settings["target_loss"] = settings["target_loss"] or asked.optimum.loss_nats
        for control in controls(asked, settings):
            known = control["low"] <= control["planned"] <= control["high"]
            assert known or (control["name"] == "serve_tokens" and control["planned"] == 0), control


def test_runs_of_a_large_fit_are_thinned_and_those_held_out_are_shown() -> None:
    count = 3 * MOST_RUNS
    n, d = np.geomspace(1e7, 1e10, count), np.geomspace(1e9, 1e11, count)
    held = {"run": "far", "parameters": 1e10, "tokens": 1e12, "train_flops": 6e22, "measured": 2.1}
    fit = drawn_fit(
        evidence={
            "observations": {
                "run": [f"r{i}" for i in range(count)],
                "parameters": n.tolist(),
                "tokens": d.tolist(),
                "train_flops": (6 * n * d).tolist(),
                "loss_nats": np.asarray(published().law.loss(n, d)).tolist(),
            },
            "held_out": [
                held | {"predicted": 2.11, "low": 2.0, "high": 2.2, "relative_error": 0.005, "inside": True}
            ],
        }
    )
    asked = plan(serve_tokens="1e12", law=fit)
    values = evidence_values(asked)
    assert len(values["runs"]["loss_nats"]) == MOST_RUNS
    assert values["held_out"]["measured"] == [2.1]
    assert values["frontier"]["train_flops"][-1] > values["plan"]["train_flops"]
    assert all(low < middle < high for low, middle, high in zip(
        values["frontier"]["low"], values["frontier"]["loss"], values["frontier"]["high"], strict=True
    ))  # fmt: skip
    assert "1 of 1 inside their interval; worst error 0.5%" in page(asked)


def test_a_fit_of_many_runs_with_long_names_gives_a_small_page() -> None:
    count = 2000
    n, d = np.geomspace(1e7, 1e10, count), np.geomspace(1e9, 1e11, count)
    names = [f"{'a-long-name-of-a-sweep-' * 6}{i:05d}" for i in range(count)]
    observations = {
        "run": names, "parameters": n.tolist(), "tokens": d.tolist(), "train_flops": (6 * n * d).tolist(),
        "loss_nats": np.asarray(published().law.loss(n, d)).tolist(),
    }  # fmt: skip
    held = {"parameters": 1e10, "tokens": 1e12, "predicted": 2.11, "low": 2.0, "high": 2.2, "inside": True}
    rows = [
        {**held, "run": name, "train_flops": 6e22 * (1 + i / count), "measured": 2.1, "relative_error": 0.005}
        for i, name in enumerate(names)
    ]
    fit = drawn_fit(evidence={"observations": observations, "held_out": rows})
    made = page(plan(requests="1e9", months=60, retrain_every=6, law=fit))
    assert len(made.encode()) < 200_000
    assert "Rings: 100 of 2,000 runs held out" in made
    shown = json.loads(Elements(made).scripts["data"])["evidence"]
    assert MOST_RUNS * 0.9 < len(shown["runs"]["run"]) <= MOST_RUNS
    assert len(set(shown["runs"]["run"])) == len(shown["runs"]["run"])
    assert max(map(len, shown["held_out"]["run"])) < 80


def test_a_published_law_says_where_its_runs_are_and_how_it_erred(answer: Plan) -> None:
    made = page(answer)
    assert "not in the law&#x27;s file, but published: github.com/epoch-research/analyzing-chinchilla" in made
    assert "erred 1.5 times as much on farther ones as draws and noise implied" in made
    elsewhere = page(plan(serve_tokens="1e12", law="hoffmann-2022"))
    assert "its source is Hoffmann et al. 2022, arXiv 2203.15556" in elsewhere


def test_memory_is_counted_as_serving_counts_it() -> None:
    shape = ServedShape(weights=70e9, active_weights=69e9, layers=80.0, query_width=8192.0, kv_width=1024.0)
    usable = 0.92 * 80e9 - 3e9
    for bits, cache in ((16.0, 2.0), (8.0, 1.0), (4.5, 1.0)):
        needed = 70e9 * bits / 8 + 2 * 80 * 1024 * cache * 2000
        least = next(group for group in (1, 2, 4, 8, 16) if group * usable >= needed)
        assert holders(shape, 80e9, bits, 2000) == least
    assert holders(shape._replace(weights=1e18), 80e9, 16, 2000) is None


def test_alternatives_are_the_plans_own_figures(answer: Plan) -> None:
    found = {one.name: one.model for one in alternatives(answer)}
    assert found["recommended"].lifetime == answer.recommended.lifetime
    assert found["compute-optimal, equal loss"].parameters == answer.compute_optimal.parameters
    assert {near.name for near in answer.family} >= set(found) - {
        *("recommended", "unrounded", "compute-optimal, equal loss", "compute-optimal, equal cost")
    }
    for model in found.values():
        assert model.lifetime.total("usd") == pytest.approx(5e6, rel=0.4)


def _shades(css: str) -> dict[str, dict[str, str]]:
    """Colours by name, of the light look and of the dark one, which changes some."""
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part)) for part in css.split("@media")[:2])
    return {"light": light, "dark": light | dark}


def _contrast(one: str, other: str) -> float:
    """WCAG 2.1's ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", ["light", "dark"])
def test_words_and_controls_stand_out_from_their_ground(look: str) -> None:
    shades = _shades((DATA / "page.css").read_text())[look]
    for ground in ("paper", "panel"):
        for words in ("ink", "soft", "rival", "train", "accent"):
            assert _contrast(shades[words], shades[ground]) >= 4.5, (words, ground)
    assert _contrast(shades["warn-ink"], shades["warn"]) >= 4.5
    assert shades["halo"] == shades["paper"]


def test_options_of_assumptions_are_kept_in_one_piece(answer: Plan) -> None:
    made = page(answer)
    for one in answer.assumptions:
        for word in one.option.split(", "):
            assert re.search(f"<span>{re.escape(str(text(word)))},?</span>", made), word


def test_markup_escapes_once_and_fills_once() -> None:
    assert tag("b", "<", tag("i", "&"), title='"') == '<b title="&quot;">&lt;<i>&amp;</i></b>'
    assert text(text("<")) == "&lt;"
    assert filled("{{a}}{{b}}", {"a": "{{b}}", "b": "<"}) == "{{b}}&lt;"
    assert json.loads(as_data({"x": HOSTILE})) == {"x": HOSTILE}
    assert "<" not in as_data({"x": HOSTILE})
    with pytest.raises(ValueError, match="JSON"):
        as_data(float("nan"))
