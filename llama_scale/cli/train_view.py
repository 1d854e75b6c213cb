"""One run as it trains: a live view on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama_scale import quantities
from llama_scale.cli.output import console, current_output
from llama_scale.cli.progress import bar

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from llama_scale.launch.single import KnownRun, Seat
    from llama_scale.training.meter import Reading

PLAIN_SECONDS = 20.0
BARS = "▁▂▃▄▅▆▇█"
POINTS = 60
GAP = 3


@contextmanager
def watch_run(run: KnownRun, seat: Seat) -> Iterator[Callable[[Reading], None]]:
    """Gives the function that sees each reading, about once a second; only the leader says anything."""
    if current_output().quiet or not seat.world.leads:
        yield lambda reading: None
        return
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield PlainLines(current_output().talk)
        return
    from rich.live import Live

    curve = LossCurve(run.last_step)
    # Drawn when there is something new: a thread that refreshes would take time from the steps.
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        yield lambda reading: live.update(draw(reading, curve.add(reading), screen.width), refresh=True)


class PlainLines:
    """Says the first reading, one every PLAIN_SECONDS after that, and the last."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.said_at = -PLAIN_SECONDS

    def __call__(self, reading: Reading) -> None:
        now = time.monotonic()
        if now - self.said_at >= PLAIN_SECONDS or reading.step.step == reading.last_step:
            self.said_at = now
            self.say(line(reading))


class LossCurve:
    """The smoothed loss over the run, as a row of POINTS bars."""

    def __init__(self, last_step: int) -> None:
        self.last_step = last_step
        self.points: dict[int, float] = {}

    def add(self, reading: Reading) -> str:
        """The curve with this reading: low bars are low losses."""
        if math.isfinite(reading.smooth_loss_nats):  # the last reading of a run that diverges has no bar
            self.points[POINTS * reading.step.step // max(self.last_step, 1)] = reading.smooth_loss_nats
        values = [self.points[place] for place in sorted(self.points)]
        low, high = min(values, default=0.0), max(values, default=0.0)
        heights = (round((len(BARS) - 1) * (value - low) / ((high - low) or 1.0)) for value in values)
        return "".join(BARS[height] for height in heights)


def line(reading: Reading) -> str:
    """Everything in one line."""
    step = reading.step
    parts = [
        f"step {step.step:,} of {reading.last_step:,}",
        f"loss {reading.smooth_loss_nats:.4f} nats",
        f"LR {step.learning_rate:.3g}",
        f"gradient norm {step.gradient_norm:.3g}",
        f"{quantities.format_count(reading.tokens_per_second)} tokens/s",
        *([] if reading.mfu is None else [f"MFU {reading.mfu:.1%}"]),
        *([f"{_left(reading)} left"] if step.step < reading.last_step else []),
    ]
    return " · ".join(parts)


def draw(reading: Reading, curve: str, columns: int) -> Group:
    """The live view in at most so many columns: a bar, the numbers, the loss so far."""
    from rich.console import Group
    from rich.text import Text

    step = reading.step
    cells = [
        ("step", f"{step.step:,}/{reading.last_step:,}"),
        ("loss (nats)", f"{reading.smooth_loss_nats:.4f}"),
        ("LR", f"{step.learning_rate:.3g}"),
        ("gradient", f"{step.gradient_norm:.3g}"),
        ("tokens/s", quantities.format_count(reading.tokens_per_second)),
        ("MFU", "–" if reading.mfu is None else f"{reading.mfu:.1%}"),
        ("left", _left(reading)),
    ]
    numbers = [line for row in _rows(cells, columns) for line in row]
    return Group(
        bar(step.step / max(reading.last_step, 1), columns), *numbers, Text(curve[-columns:], style="cyan")
    )


def _rows(cells: Sequence[tuple[str, str]], columns: int) -> Iterator[tuple[Text, Text]]:
    """Names over their values, as many side by side as fit into so many columns."""
    from rich.text import Text

    names, values = Text(style="dim"), Text(style="bold")
    for name, value in cells:
        breadth = max(len(name), len(value))
        if names and len(names) + breadth > columns:
            yield names, values
            names, values = Text(style="dim"), Text(style="bold")
        names.append(name.ljust(breadth + GAP))
        values.append(value.ljust(breadth + GAP))
    yield names, values


def _left(reading: Reading) -> str:
    return quantities.format_seconds(max(1, round(reading.remaining_seconds)))
