"""How much memory a worker takes, and how much this machine, or this container, still has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from llama_scale.runs import RunConfig

# Fitted from above to the peak resident memory of five shapes on CPU (torch 2.13, widths 64 to 1024,
# vocabularies of 1,024 to 32,000): a process with torch, the states, what the backward pass keeps.
PROCESS_BYTES = 350e6
STATE_BYTES = 1.1 * 16  # a parameter: weight, gradient and two moments in fp32
ACTIVATION_FACTOR = 1.6
LOGIT_BYTES = 1.4 * 12  # a logit: itself, its log-probability and its gradient in fp32
# Limit, use, and the parts of memory.stat that the kernel gives back when asked: cgroup 2, then 1.
CGROUP_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def memory_bytes(config: RunConfig) -> float:
    """About what training `config` takes, the process included; rather too much than too little."""
    model, tokens = config.model, config.tokens_per_step
    attention = 2 * model.head_size * (model.heads + model.kv_heads)
    kept = 4 * (4 * model.width + attention + 4 * model.hidden)  # of a layer and token, in fp32
    return (
        PROCESS_BYTES
        + STATE_BYTES * model.parameters.total
        + ACTIVATION_FACTOR * kept * model.layers * tokens
        + LOGIT_BYTES * model.vocabulary * tokens
    )


def free_memory_bytes() -> float:
    """What new processes can have, by the machine and by every control group around us; else infinite."""
    return max(0.0, min([_free_of_machine(), *map(_free_of_group, _groups())]))


def _free_of_machine() -> float:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return float("inf")


def _groups() -> Iterator[Path]:
    """Folders of the control groups that may limit this process's memory, the innermost first."""
    roots = {"": Path("/sys/fs/cgroup"), "memory": Path("/sys/fs/cgroup/memory")}
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in roots.keys() & set(controllers.split(",")):
            inner = roots[name] / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(roots[name]))


def _free_of_group(folder: Path) -> float:
    for limit, used, reclaimable in CGROUP_FILES:
        with suppress(OSError, ValueError):
            room = float((folder / limit).read_text()) - float((folder / used).read_text())
            stated = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return room + sum(float(stated.get(part, 0)) for part in reclaimable)
    return float("inf")
