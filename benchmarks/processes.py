"""What a whole process takes, from start to end."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Sequence
from typing import Any


def cpu_seconds(line: Sequence[str], **others: Any) -> float:
    """User and system time of a command, whose output is dropped; `others` are subprocess.run's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, **others)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
