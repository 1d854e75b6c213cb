"""What is seen of a sweep while it runs: on a terminal, and where there is none."""

from __future__ import annotations

import io
import pty
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from llama_scale.cli.progress import _draw, _PlainLines, ending, headline
from llama_scale.cli.train_view import draw
from llama_scale.launch import LaunchReport, Progress
from llama_scale.launch.tasks import Running
from llama_scale.training.meter import Reading
from llama_scale.training.trainer import Step

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


READING = Reading(
    steps=(Step(step=1_234_567, loss_nats=3.5, gradient_norm=0.25, learning_rate=1e-4),),
    last_step=12_345_678,
    smooth_loss_nats=3.25,
    tokens_per_second=123_456.0,
    mfu=0.421,
    remaining_seconds=86_400.0,
)


def printed(view: RenderableType, columns: int) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=columns, height=24)
    with console.capture() as capture:
        console.print(view)
    return [line.rstrip() for line in capture.get().splitlines()]


def seen(progress: Progress, lines: int = 24, columns: int = 80) -> list[str]:
    return printed(_draw(progress, columns, lines), columns)


def test_the_view_says_where_the_sweep_and_each_member_are() -> None:
    text = " ".join(seen(PROGRESS))
    assert "12 of 1000 runs · 2.5e18 of 1e19 FLOPs · " in text
    assert "1 failed" in text and " 25%" in text
    assert "holdout" in text and "1,234,567 of 12,345,678" in text and "3.250" in text and "123K" in text


def test_the_view_fits_the_terminal() -> None:
    crowd = replace(PROGRESS, running=(MEMBER,) * 100)
    lines = seen(crowd, lines=20)
    assert len(lines) <= 20 and max(map(len, lines)) <= 80
    assert lines[-1].startswith("… and ")
    assert next(line for line in seen(PROGRESS, columns=46) if line.endswith(" 25%")).startswith("━" * 41)


@pytest.mark.parametrize(("columns", "rows"), [(100, 1), (80, 1), (40, 3), (24, 4)])
def test_the_view_of_one_run_shows_every_number_whole_at_any_width(columns: int, rows: int) -> None:
    first, *numbers, curve = printed(draw(READING, "▁" * 60, columns), columns)
    assert first.startswith("━") and first.endswith(" 10%")  # on a line of its own
    assert len(numbers) == 2 * rows and curve == "▁" * min(60, columns)
    words = " ".join(numbers).split()
    names = ["step", "loss", "(nats)", "LR", "gradient", "tokens/s", "MFU", "left"]
    values = ["1,234,567/12,345,678", "3.2500", "0.0001", "0.25", "123K", "42.1%", "1", "d"]
    assert sorted(words) == sorted(names + values)


def test_a_view_on_a_terminal_follows_its_width() -> None:
    script = (
        "import fcntl, struct, termios; from llama_scale.cli.output import console\n"
        "screen = console(stderr=True)\n"
        "for columns in (100, 50):\n"
        "    fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))\n"
        "    print(screen.width)"
    )
    _, terminal = pty.openpty()
    shown = subprocess.run(
        ["env", "-u", "COLUMNS", "-u", "NO_COLOR", "TERM=xterm", sys.executable, "-c", script],
        stdin=terminal,
        stderr=terminal,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shown.stdout.split() == ["100", "50"]


def logged(capsys: pytest.CaptureFixture[str], *steps: Progress) -> list[str]:
    """What is said of a sweep without a terminal, one line each."""
    say = _PlainLines(lambda run: f"no space left (see {run}/worker.log)")
    for progress in steps:
        say(progress)
    return capsys.readouterr().err.splitlines()


def test_where_there_is_no_terminal_lines_say_where_the_sweep_is(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = logged(capsys, replace(PROGRESS, failed=()))
    assert line == f"{headline(replace(PROGRESS, failed=()))} · 2 in training at 123K tokens/s"


def test_a_run_that_failed_is_named_at_once_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = replace(PROGRESS, failed=(), elapsed_seconds=3_722.0)
    said = logged(capsys, before, PROGRESS, PROGRESS)
    assert said[1:] == [
        "run fedcba9876543210 failed: no space left (see fedcba9876543210/worker.log)",
    ]


def test_a_week_makes_a_log_that_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand runs that end one after the other, looked at every ten seconds."""
    week, last = 7 * 86_400, 60_480
    calm = replace(PROGRESS, failed=())
    steps = (replace(calm, done=i * 1_000 // last, elapsed_seconds=i * 10) for i in range(last))
    ended = replace(calm, done=1_000, running=(), elapsed_seconds=week)
    said = logged(capsys, *steps, ended, ended)
    assert 24 * 7 < len(said) < 1_000
    assert said[0].startswith("0 of 1000 runs") and said[-1].startswith("1000 of 1000 runs")
    assert said[-1].endswith("FLOPs · 7 d gone")
    assert sum(line.startswith("1000 of") for line in said) == 1
    assert len(logged(capsys, *(replace(calm, elapsed_seconds=i) for i in range(600)))) < 25


def test_the_end_says_how_busy_the_workers_were() -> None:
    assert ending(LaunchReport(failed=(), seconds=612.0, busy_share=0.973)) == (
        "Trained in 10 min; its workers were busy for 97.3% of it."
    )
    assert ending(LaunchReport(failed=(), seconds=59.6, busy_share=None)) == "Trained in 1 min."
