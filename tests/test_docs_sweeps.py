"""The fault table of docs/sweeps.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "sweeps.md"
ROWS = (
    23  # of the fault matrix that one machine can show; world sizes are training's, power cuts a known limit
)


def test_every_row_of_the_fault_table_names_its_tests() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| \d", line)]
    numbers = {int(number) for row in rows for number in re.findall(r"\d+", row.split("|")[1])}
    assert numbers == set(range(1, ROWS + 1))
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(\w+)`", row)
        assert named, f"no test is named in {row}"
        for file, name in named:
            assert f"def {name}(" in (TESTS / file).read_text(), f"{file} has no {name}"
