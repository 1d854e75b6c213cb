"""A limit of memory that the kernel enforces: who goes over it is killed, as on a node or in a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KINDS = (("memory/", "memory.limit_in_bytes"), ("", "memory.max"))  # cgroup 1 and 2


@contextmanager
def limited(folder: Path, limit_bytes: int, program: str) -> Iterator[str]:
    """A script in `folder` that runs `program` within the limit; skips where no control group can be made."""
    for place, limit in KINDS:
        group = Path("/sys/fs/cgroup") / place / f"llama-scale-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / limit).exists():
                continue
            (group / limit).write_text(str(limit_bytes))
            script = folder / "limited"
            script.write_text(f'#!/bin/sh\necho $$ > {group}/cgroup.procs && exec {program} "$@"\n')
            script.chmod(0o755)
            yield str(script)
            return
        finally:
            group.rmdir()
    pytest.skip("a control group that limits memory cannot be made here: it needs root and cgroup 1 or 2")
