"""A small real recipe of one run, and the command that trains it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes import write_text

from llama_scale.runs import RunFolder

RECIPE = """
model = "2x16"
steps = {steps}
[shape]
context = 32
[training]
sequences_per_step = 4
learning_rate = 1e-3
[data]
source = "text"
vocabulary = 300
evaluation_tokens = 2048
"""
ALONE = (sys.executable, "-m", "llama_scale")
TOGETHER = (
    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
    *("--local-addr", "127.0.0.1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
    *("-m", "llama_scale"),
)


def write_single(folder: Path, steps: int) -> Path:
    """A folder with some text and one.toml."""
    write_text(folder / "text")
    (folder / "one.toml").write_text(RECIPE.format(steps=steps))
    return folder


def surroundings() -> dict[str, str]:
    """One thread, the loopback device, and torch's arithmetic everywhere: a shared model has no kernels."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "LLAMA_SCALE_KERNELS": "off"}


def start(home: Path, *words: str, launcher: tuple[str, ...] = ALONE) -> subprocess.Popen[str]:
    """`llama-scale train one.toml ...` as it would be typed in `home`."""
    return subprocess.Popen(
        [*launcher, "train", "one.toml", "--device", "cpu", *words],
        cwd=home,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int | None = 0) -> tuple[str, str]:
    """What a command said on stdout and stderr, once it has left with `code`."""
    out, err = process.communicate(timeout=400)
    assert code is None or process.returncode == code, out + err
    return out, err


def train(home: Path, *words: str, launcher: tuple[str, ...] = ALONE, code: int = 0) -> dict[str, Any]:
    """The JSON that a whole run ends with."""
    out, _ = finish(start(home, "--json", "--quiet", *words, launcher=launcher), code)
    return json.loads(out[out.index("{") :])


def only_run(store: Path) -> RunFolder:
    (spec,) = store.glob("*/spec.json")
    return RunFolder(spec.parent)


def wait_for_start(store: Path, process: subprocess.Popen[str], count: int) -> RunFolder:
    """The folder of the only run, once it has been started `count` times and is taking steps."""

    def starts() -> int:
        if not list(store.glob("*/spec.json")):
            return 0
        return sum(event["event"] == "start" for event in only_run(store).events())

    wait_for(lambda: starts() >= count or process.poll() is not None)
    return only_run(store)


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
