"""Draws that ship with the package: CSV files with `#` comments, one header line, one draw a line."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from llama_scale.files import SHIPPED
from llama_scale.laws.repeated import Repetition


def columns_of(name: str) -> dict[str, NDArray[np.float64]]:
    """The draws of a shipped file, by the names of its header."""
    text = (SHIPPED / "draws" / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    columns = np.array(",".join(lines[1:]).split(","), float).reshape(len(lines) - 1, -1).T
    return dict(zip(lines[0].split(","), columns, strict=True))


@cache
def published_decays() -> Repetition:
    """Our own draws of the decays that Muennighoff et al. 2023 published as two numbers.

    They spread over the several minima of that fit: a file's comments say how they were made.
    """
    return Repetition(**columns_of("muennighoff-2023-decays.csv"))
