"""A sweep as it runs: a live table on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama_scale import quantities
from llama_scale.cli.output import console, current_output, table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from llama_scale.launch import LaunchReport, Progress

PLAIN_SECONDS = 20.0
BAR_WIDTH = 60


@contextmanager
def watch_sweep() -> Iterator[Callable[[Progress], None]]:
    """Gives the function that a launcher calls with its progress, a few times a second."""
    screen = console(stderr=True)
    if current_output().quiet:
        yield lambda progress: None
    elif screen.is_terminal:
        from rich.live import Live

        with Live(console=screen, refresh_per_second=4, transient=True) as live:
            yield lambda progress: live.update(_draw(progress, screen.height))
    else:
        yield _PlainLines()


class _PlainLines:
    """Says something when a run ends, and every PLAIN_SECONDS besides."""

    def __init__(self) -> None:
        self.said_at = 0.0
        self.said: tuple[int, int] = (-1, 0)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        state = (progress.done, len(progress.failed))
        if state == self.said and now - self.said_at < PLAIN_SECONDS:
            return
        self.said, self.said_at = state, now
        members = "; ".join(
            f"width {m.width} {m.kind} step {m.step:,} of {m.last_step:,}{_loss(m.loss_nats)}"
            for m in progress.running
        )
        current_output().talk(f"{headline(progress)}{f' | {members}' if members else ''}")


def headline(progress: Progress) -> str:
    """Runs and FLOPs done, time gone, time left, failures."""
    left = progress.remaining_seconds
    done, total = (quantities.format_flops(n) for n in (progress.flops_done, progress.flops_total))
    parts = [
        f"{progress.done} of {progress.total} runs",
        f"{done.removesuffix(' FLOPs')} of {total}",
        f"{_about(progress.elapsed_seconds)} gone",
        f"about {_about(left)} left" if left is not None else "measuring the time left",
    ]
    if progress.failed:
        parts.append(f"{len(progress.failed)} failed")
    return " · ".join(parts)


def ending(report: LaunchReport) -> str:
    """What a launch took, and how busy it kept its workers."""
    busy = f"; its workers were busy for {report.busy_share:.1%} of it" if report.busy_share else ""
    return f"Trained in {_about(report.seconds)}{busy}."


def _about(seconds: float) -> str:
    """A time to two figures or so: seconds say nothing where there are hours."""
    unit = next(unit for least, unit in ((36_000, 1_800), (600, 60), (60, 10), (0, 1)) if seconds >= least)
    return quantities.format_seconds(round(seconds / unit) * unit)


def _draw(progress: Progress, room: int) -> Group:
    """The view in at most `room` lines."""
    from rich.console import Group
    from rich.text import Text

    shown = progress.running[: max(1, room - 5)]
    rows = [
        (
            m.run[:8],
            m.kind,
            m.width,
            f"{m.step:,} of {m.last_step:,}",
            f"{m.loss_nats:.3f}" if m.loss_nats is not None else "–",
            quantities.format_count(m.tokens_per_second, 3) if m.tokens_per_second else "–",
            _about(m.remaining_seconds) if m.remaining_seconds is not None else "–",
        )
        for m in shown
    ]
    columns = ("run", "role", "width", "step", "loss", "tokens/s", "left")
    parts: list[RenderableType] = [Text(headline(progress)), _bar(progress)]
    if rows:
        parts.append(table(rows, columns))
    if more := len(progress.running) - len(shown):
        parts.append(Text(f"… and {more} more", style="dim"))
    return Group(*parts)


def _bar(progress: Progress) -> Text:
    """The share of the FLOPs that is done, as a line and a number."""
    from rich.text import Text

    share = min(1.0, progress.flops_done / max(progress.flops_total, 1.0))
    full = round(share * BAR_WIDTH)
    text = Text("━" * full, style="green")
    return text.append("━" * (BAR_WIDTH - full), style="bright_black").append(
        f" {share:.0%}", style="default"
    )


def _loss(loss: float | None) -> str:
    return "" if loss is None else f" loss {loss:.3f}"
