"""Every command on docs/fitting-other-data.md runs, on made-up data of the kinds that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import LUO_CURVES

from llama_scale.cli import main
from llama_scale.fitting.curve_sources import schedule_of
from llama_scale.laws import RepeatedDataLaw, Repetition, ScalingLaw

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "fitting-other-data.md").read_text(encoding="utf-8")
BLOCKS = [text.splitlines() for text in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
PEAK, WARM = 3e-4, 500


def write_repeated(path: Path) -> None:
    law = ScalingLaw(E=1.7, A=400.0, B=1200.0, alpha=0.34, beta=0.35)
    generator = np.random.default_rng(0)
    lines = ["parameters,tokens,unique_tokens,loss"]
    for size in np.geomspace(5e7, 2e9, 5):
        for unique in np.geomspace(2e9, 6e10, 4):
            for epochs in (1, 3, 10):
                worth = RepeatedDataLaw(
                    law=law,
                    unique_tokens=unique,
                    repetition=Repetition(tokens_decay=15.0, parameters_decay=1e3),
                )
                loss = float(worth.loss(size, unique * epochs)) * np.exp(0.003 * generator.standard_normal())
                lines.append(f"{size:.0f},{unique * epochs:.0f},{unique:.0f},{loss:.5f}")
    path.write_text("\n".join(lines) + "\n")


def write_curves(path: Path) -> None:
    law = LUO_CURVES[25]
    lines = ["run,params,step,lr,loss,warmup_steps"]
    for name, kind, steps in (
        ("cosine_24000", "cosine", 24000),
        ("wsdcon_9", "wsd", 16000),
        ("linear_20000", "linear", 20000),
    ):
        rates = schedule_of(kind, steps, peak=PEAK, warmup_steps=WARM, final_fraction=0.1)
        logged = np.arange(1000, steps + 1, 400)
        losses = law.loss_at(rates, logged)
        values = np.interp(logged, rates.steps, rates.rates)
        lines += [
            f"{name},25M,{step},{rate:.6g},{loss:.5f},{WARM}"
            for step, rate, loss in zip(logged, values, losses, strict=True)
        ]
    path.write_text("\n".join(lines) + "\n")


def write_scores(path: Path, column: str) -> None:
    losses = np.linspace(2.1, 3.4, 16)
    scores = 0.25 + 0.6 / (1 + np.exp(3 * (losses - 2.5)))
    rows = [f"{loss:.4f},{score:.4f}" for loss, score in zip(losses, scores, strict=True)]
    path.write_text("\n".join([f"loss,{column}", *rows]) + "\n")


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other-data")
    write_repeated(folder / "runs.csv")
    write_curves(folder / "curves.csv")
    write_scores(folder / "scores.csv", "score")
    write_scores(folder / "models.csv", "core_average")
    return folder


def test_the_page_has_its_three_kinds_of_data() -> None:
    assert len(BLOCKS) == 3
    assert all(
        line.startswith(("llama-scale fit ", "llama-scale plan ")) for block in BLOCKS for line in block
    )


@pytest.mark.parametrize("block", BLOCKS, ids=("repeated", "curves", "scores"))
def test_every_command_runs(block: list[str], surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(surroundings)
    (surroundings / "law.json").unlink(missing_ok=True)
    for line in block:
        words = shlex.split(line)[1:]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, f"{line}\n{result.output}"
