"""A figure on disk: whole, in the format that its name ends with, the same bytes for the same values."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from llama_scale.errors import InputError
from llama_scale.files import write_atomically
from llama_scale.plots.style import STYLE

FORMATS = ("png", "svg", "pdf")
# No date and no version of matplotlib.
METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def format_of(path: Path) -> str:
    """The format that a name ends with; raises InputError for any that is not written."""
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(
            f"cannot write a figure as {path.name!r}", hint=f"end its name with .{', .'.join(FORMATS)}"
        )
    return kind


def save(figure: Figure, path: Path) -> Path:
    """Write a figure; raises InputError for an unknown ending, StoreError where it cannot be written."""
    kind = format_of(path)
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        if engine := figure.get_layout_engine():
            engine.execute(figure)  # else savefig draws the whole figure once more to lay it out
            figure.set_layout_engine(None)
        figure.savefig(buffer, format=kind, metadata=METADATA[kind])
    write_atomically(path, buffer.getvalue(), other="another file with -o")
    return path
