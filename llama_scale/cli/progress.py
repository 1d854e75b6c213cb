"""A sweep as it runs: a live table on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama_scale import quantities
from llama_scale.cli.output import console, current_output, table

if TYPE_CHECKING:
    from rich.console import Group

    from llama_scale.launch import Progress

PLAIN_SECONDS = 20.0


@contextmanager
def watch_sweep() -> Iterator[Callable[[Progress], None]]:
    """Gives the function that a launcher calls with its progress, a few times a second."""
    screen = console(stderr=True)
    if current_output().quiet:
        yield lambda progress: None
    elif screen.is_terminal:
        from rich.live import Live

        with Live(console=screen, refresh_per_second=4, transient=True) as live:
            yield lambda progress: live.update(_draw(progress))
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
    parts = [
        f"{progress.done}/{progress.total} runs",
        f"{progress.flops_done / max(progress.flops_total, 1):.0%} of "
        + quantities.format_flops(progress.flops_total),
        f"{quantities.format_seconds(round(progress.elapsed_seconds))} gone",
        f"about {quantities.format_seconds(round(left))} left"
        if left is not None
        else "measuring the time left",
    ]
    if progress.failed:
        parts.append(f"{len(progress.failed)} failed")
    return " · ".join(parts)


def _draw(progress: Progress) -> Group:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    bar = ProgressBar(total=progress.flops_total, completed=progress.flops_done, width=60)
    rows = [
        (
            m.run[:8],
            m.kind,
            m.width,
            f"{m.step:,}/{m.last_step:,}",
            f"{m.loss_nats:.3f}" if m.loss_nats is not None else "–",
            f"{quantities.format_count(m.tokens_per_second)}/s" if m.tokens_per_second else "–",
        )
        for m in progress.running
    ]
    members = table(rows, ("run", "kind", "width", "step", "loss (nats)", "tokens"))
    return Group(Text(headline(progress)), bar, members)


def _loss(loss: float | None) -> str:
    return "" if loss is None else f" loss {loss:.3f}"
