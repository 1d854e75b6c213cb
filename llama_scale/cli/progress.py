"""A sweep as it runs: a live table on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama_scale import quantities
from llama_scale.cli.output import console, current_output, table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from llama_scale.launch import LaunchReport, Progress

# Between two lines of a log: a fifth of the time that has gone, within these. Ten minutes take twenty lines,
# a week seven hundred.
SHORTEST_SECONDS, LONGEST_SECONDS = 20.0, 900.0
BAR_WIDTH = 60


@contextmanager
def watch_sweep(reason: Callable[[str], str]) -> Iterator[Callable[[Progress], None]]:
    """Gives the function that a launcher calls with its progress, a few times a second.

    `reason` is asked why a run has failed.
    """
    screen = console(stderr=True)
    if current_output().quiet:
        yield lambda progress: None
    elif screen.is_terminal:
        from rich.live import Live

        with Live(console=screen, refresh_per_second=4, transient=True) as live:
            yield lambda progress: live.update(_draw(progress, *screen.size))
    else:
        yield _PlainLines(reason)


class _PlainLines:
    """Says where a sweep is, the more rarely the longer it takes, and at once which run failed and why."""

    def __init__(self, reason: Callable[[str], str]) -> None:
        self.reason = reason
        self.due_seconds = 0.0
        self.left = -1
        self.failed: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        for run in progress.failed:
            if run not in self.failed:
                self.failed.add(run)
                current_output().talk(f"run {run} failed: {self.reason(run)}")
        left = _left(progress)
        ended = not left and self.left > 0  # the last is said, whenever it comes
        if progress.elapsed_seconds < self.due_seconds and not ended:
            return
        pause = min(max(progress.elapsed_seconds / 5, SHORTEST_SECONDS), LONGEST_SECONDS)
        self.left, self.due_seconds = left, progress.elapsed_seconds + pause
        current_output().talk(" · ".join([headline(progress), *_at_work(progress)]))


def _at_work(progress: Progress) -> Iterator[str]:
    """How many runs train, and how fast all of them together."""
    if progress.running:
        rate = sum(member.tokens_per_second or 0.0 for member in progress.running)
        speed = f" at {quantities.format_count(rate)} tokens/s" if rate else ""
        yield f"{len(progress.running)} in training{speed}"


def _left(progress: Progress) -> int:
    """How many runs have not ended."""
    return progress.total - progress.done - len(progress.failed)


def headline(progress: Progress) -> str:
    """Runs and FLOPs done, time gone, time left, failures."""
    left = progress.remaining_seconds
    done, total = (quantities.format_flops(n) for n in (progress.flops_done, progress.flops_total))
    parts = [
        f"{progress.done} of {progress.total} runs",
        f"{done.removesuffix(' FLOPs')} of {total}",
        f"{_about(max(1.0, progress.elapsed_seconds))} gone",
    ]
    if _left(progress):
        parts.append(f"about {_about(left)} left" if left is not None else "measuring the time left")
    if progress.held:
        parts.append(f"{len(progress.held)} held by another process")
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


def _draw(progress: Progress, columns: int, lines: int) -> Group:
    """The view in at most so many lines, of at most so many columns."""
    from rich.console import Group
    from rich.text import Text

    shown = progress.running[: max(1, lines - 5)]
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
    names = ("run", "role", "width", "step", "loss", "tokens/s", "left")
    share = progress.flops_done / max(progress.flops_total, 1.0)
    parts: list[RenderableType] = [Text(headline(progress)), bar(share, columns)]
    if rows:
        parts.append(table(rows, names))
    if more := len(progress.running) - len(shown):
        parts.append(Text(f"… and {more} more", style="dim"))
    return Group(*parts)


def bar(share: float, columns: int) -> Text:
    """The share that is done, as a line and a number, in at most so many columns."""
    from rich.text import Text

    share = min(1.0, share)
    whole = max(0, min(BAR_WIDTH, columns - len(" 100%")))
    full = round(share * whole)
    text = Text("━" * full, style="green")
    return text.append("━" * (whole - full), style="bright_black").append(f" {share:.0%}", style="default")
