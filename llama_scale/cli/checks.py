"""What `llama-scale doctor` looks at: one function a check, each saying what it found and how to mend it."""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import click

from llama_scale.cli import settings
from llama_scale.errors import LlamaScaleError, StoreError
from llama_scale.files import write_atomically
from llama_scale.frozen import frozen
from llama_scale.quantities import counted, format_bytes
from llama_scale.version import code_version

Status = Literal["pass", "warn", "fail"]
ROOM_FOR_A_SWEEP = 2 * 2**30  # the default sweep's text and checkpoints, with as much to spare
ROOM_AT_ALL = 200 * 2**20
MEMORY_FOR_A_SWEEP = 3 * 2**30


@frozen(kw_only=False)
class Check:
    """One thing that was looked at: what was found, and how to mend it where it did not pass."""

    name: str
    status: Status
    found: str
    fix: str | None = None


def examine(store: Path, root: click.Context) -> Iterator[Check]:
    """Every check, in the order in which they are worth mending."""
    yield Check("llama-scale", "pass", code_version())
    yield Check("python", "pass", f"{platform.python_version()} at {sys.executable}")
    yield from map(_package, _requirements())
    yield from _devices()
    yield _memory()
    yield _disk(store)
    yield _writable(store)
    yield _corpus()
    yield from _extras()
    yield _settings(root)


def _requirements() -> list[str]:
    """The names of the packages that llama-scale needs, extras left out."""
    needed = {_name(line) for line in _declared() if "extra ==" not in line}
    return sorted(needed - {"networkx", "sympy"})  # these are only text: the corpus' check sees to them


def _declared() -> list[str]:
    """The requirement lines of the installed package, none where it runs from a mere folder."""
    return metadata.requires("llama-scale") or [] if _is_installed("llama-scale") else []


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def _package(name: str) -> Check:
    """Imports it: a package may be installed and yet not load, for want of a system library."""
    try:
        import_module(name)
        return Check(name, "pass", metadata.version(name))
    except Exception as error:  # a broken package raises anything
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        return Check(name, "fail", found, f"pip install --force-reinstall -c constraints.txt {name}")


def _devices() -> Iterator[Check]:
    from llama_scale.launch.places import usable_cores

    yield Check("cpu", "pass", counted(len(usable_cores()), "core"))
    try:
        import torch

        from llama_scale.training.environment import has_bf16
    except Exception:  # said by its own check
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_properties(index) for index in range(count)]
    if count:
        shown = ", ".join(f"{device.name} ({format_bytes(device.total_memory)})" for device in names)
        yield Check("cuda", "pass", shown)
    elif Path("/proc/driver/nvidia/version").exists():
        built = f"torch {torch.__version__} (CUDA {torch.version.cuda or 'not built in'})"
        fix = "install a torch for your driver: https://pytorch.org/get-started/locally"
        yield Check("cuda", "warn", f"a driver, but {built} sees no device", fix)
    else:
        yield Check("cuda", "pass", "none: runs use the CPU")
    cards = [torch.device("cuda", index) for index in range(count)]
    fast = all(map(has_bf16, cards)) if cards else _cpu_has("avx512_bf16", "amx_bf16", "bf16")
    yield Check("bf16", "pass", "in hardware" if fast else "emulated: runs use float32")
    yield _kernels()


def _kernels() -> Check:
    """Whether training on a CPU has its C kernels; they are compiled now if they never were."""
    from llama_scale.training.kernels import Absent, library

    found = library()
    if isinstance(found, Absent):
        said = f"none, torch alone trains, more slowly and not in integers: {found.reason}"
        return Check("kernels", "warn", said, found.fix)
    slow = "" if _cpu_has("avx512_vnni") else "; without AVX-512 VNNI, which it lacks, i8 is slower than i16"
    return Check("kernels", "pass", f"{found.name}, compiled for this CPU{slow}")


def _cpu_has(*names: str) -> bool:
    from llama_scale.training.environment import cpu_facts

    facts = cpu_facts()
    return not {*names}.isdisjoint(f"{facts.get('flags', '')} {facts.get('Features', '')}".split())


def _memory() -> Check:
    from llama_scale.training.free_memory import free_memory_bytes

    free = free_memory_bytes()
    good = free >= MEMORY_FOR_A_SWEEP
    fix = None if good else "close other programs, or train with one worker: llama-scale sweep --workers 1"
    found = f"{format_bytes(free)} free" if free < math.inf else "unknown on this system"
    return Check("memory", "pass" if good else "warn", found, fix)


def _disk(store: Path) -> Check:
    free = shutil.disk_usage(_existing(store)).free
    status: Status = "pass" if free >= ROOM_FOR_A_SWEEP else "warn" if free >= ROOM_AT_ALL else "fail"
    fix = None if status == "pass" else "free some space, or choose another folder with --store"
    return Check("disk", status, f"{format_bytes(free)} free for {store}", fix)


def _writable(store: Path) -> Check:
    """Writes a small file where the store is, or would be made, and takes it away again."""
    trial = _existing(store) / f".llama-scale-doctor-{os.getpid()}"
    try:
        write_atomically(trial, "x" * 4096)
        trial.unlink()
    except StoreError as error:
        return Check("store", "fail", error.message, error.hint)
    return Check("store", "pass", f"{store} can be written" + ("" if store.exists() else ", once made"))


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest path above it where there is something."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _corpus() -> Check:
    """The built-in corpus is made of installed sources, each checked against its wheel's RECORD."""
    from llama_scale.training.builtin import BUILTIN_PACKAGES

    missing = [name for name in BUILTIN_PACKAGES if not _has_record(name)]
    if not missing:
        return Check("corpus", "pass", f"sources of {', '.join(BUILTIN_PACKAGES)}")
    fix = f"in a virtual environment: pip install --force-reinstall --no-deps {' '.join(missing)}"
    return Check("corpus", "fail", f"no RECORD of the files of {', '.join(missing)}", fix)


def _has_record(name: str) -> bool:
    try:
        return bool(metadata.distribution(name).read_text("RECORD"))
    except metadata.PackageNotFoundError:
        return False


def _extras() -> Iterator[Check]:
    """Extras are wishes: their absence is said, and is no failure."""
    marked = [(line, re.search(r"extra == ['\"]([^'\"]+)", line)) for line in _declared()]
    for extra in sorted({mark[1] for _, mark in marked if mark}):
        wanted = {_name(line) for line, mark in marked if mark and mark[1] == extra}
        missing = sorted(name for name in wanted if not _is_installed(name))
        how = f"not installed (pip install 'llama-scale[{extra}]')" if missing else "installed"
        yield Check(f"extra {extra}", "pass", how)


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _settings(root: click.Context) -> Check:
    """Reads every table of the settings files, and every variable, not only those of one command."""
    try:
        settings.check_all(root)
    except LlamaScaleError as error:
        return Check("settings", "fail", error.message, error.hint)
    if strangers := settings.unknown_variables(root):
        (variable, close), *_ = strangers.items()
        fix = f"did you mean {close}?" if close else f"unset {variable}"
        return Check("settings", "warn", f"nothing reads the variable {', '.join(strangers)}", fix)
    return Check("settings", "pass", ", ".join(map(str, settings.files())) or "no files: defaults")
