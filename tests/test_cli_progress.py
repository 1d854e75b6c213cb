"""What is seen of a sweep while it runs: on a terminal, and where there is none."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from llama_scale.cli.progress import _draw, _PlainLines, ending, headline
from llama_scale.launch import LaunchReport, Progress
from llama_scale.launch.tasks import Running

MEMBER = Running(
    run="0123456789abcdef",
    width=2048,
    kind="holdout",
    step=1_234_567,
    last_step=12_345_678,
    share=0.1,
    loss_nats=3.25,
    tokens_per_second=123_456.0,
    remaining_seconds=86_400.0,
)
PROGRESS = Progress(
    done=12,
    total=1_000,
    running=(MEMBER, replace(MEMBER, loss_nats=None, tokens_per_second=None, remaining_seconds=None)),
    failed=("fedcba9876543210",),
    flops_done=2.5e18,
    flops_total=1e19,
    elapsed_seconds=3_723.0,
    remaining_seconds=11_111.0,
)


def seen(progress: Progress, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80, height=height)
    with console.capture() as capture:
        console.print(_draw(progress, height))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_view_says_where_the_sweep_and_each_member_are() -> None:
    text = " ".join(seen(PROGRESS))
    assert "12 of 1000 runs · 2.5e18 of 1e19 FLOPs · " in text
    assert "1 failed" in text and " 25%" in text
    assert "holdout" in text and "1,234,567 of 12,345,678" in text and "3.250" in text and "123K" in text


def test_the_view_fits_the_terminal() -> None:
    crowd = replace(PROGRESS, running=(MEMBER,) * 100)
    lines = seen(crowd, height=20)
    assert len(lines) <= 20 and max(map(len, lines)) <= 80
    assert lines[-1].startswith("… and ")


def test_where_there_is_no_terminal_a_line_is_said_when_a_run_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say = _PlainLines()
    for progress in (PROGRESS, PROGRESS, replace(PROGRESS, done=13)):
        say(progress)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(headline(PROGRESS)) and "width 2048 holdout step 1,234,567" in first
    assert second.startswith("13 of 1000 runs")


def test_the_end_says_how_busy_the_workers_were() -> None:
    assert ending(LaunchReport(failed=(), seconds=612.0, busy_share=0.973)) == (
        "Trained in 10 min; its workers were busy for 97.3% of it."
    )
    assert ending(LaunchReport(failed=(), seconds=59.6, busy_share=None)) == "Trained in 1 min."
