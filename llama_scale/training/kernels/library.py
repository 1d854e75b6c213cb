"""The C kernels as a shared library: compiled once by the system's compiler, kept in the user's cache.

Without a compiler, or with LLAMA_SCALE_KERNELS=off, torch does everything, more slowly.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from llama_scale.errors import LlamaScaleError
from llama_scale.files import cache_folder, write_atomically
from llama_scale.frozen import frozen
from llama_scale.training.environment import cpu_facts

SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("kernels.c", "products_f32.c", "products_integers.c")
)
HEADERS = tuple(Path(__file__).with_name(name) for name in ("vectors.h", "products.h"))
SWITCH = "LLAMA_SCALE_KERNELS"
COMPILERS = ("cc", "gcc", "clang")
# sqrtf need not set errno; nothing else of the language's floating point is loosened.
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fPIC", "-shared")
FOR_THIS_CPU = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler knows
COMPILE_SECONDS = 120
LEAST_LANES = 8  # AVX's: other processors have libraries that know them better, and torch calls those
# Functions that give a size, and how many sizes they take.
SIZES_OF = {
    "lanes": 0,
    "attention_scratch": 2,
    "f32_product_scratch": 3,
    "i16_product_scratch": 3,
    "i8_product_scratch": 3,
}


class _Pointer(ctypes.c_void_p):
    """A tensor's memory, and the tensor, without which the memory would go."""

    tensor: Tensor


@frozen(kw_only=False)
class Library:
    """Kernels that can be called; `name` tells source, compiler and CPU apart in a run's record."""

    functions: ctypes.CDLL
    name: str

    @property
    def multiplies(self) -> bool:
        """Whether products of floats are ours here, too: else torch's, which share out threads themselves."""
        return self.functions.lanes() >= LEAST_LANES

    def call(self, function: str, *arguments: Tensor | int | float | None) -> partial[Any]:
        """A call of `function` to be made later, any number of times, on these tensors' memory as it then is.

        A tensor stands for its first number: what strides it has are arguments too. The call keeps it alive.
        """
        return partial(getattr(self.functions, function), *map(_as_c, arguments))


@frozen(kw_only=False)
class Absent:
    """Why there are no kernels here, and what to do about it."""

    reason: str
    fix: str


@cache
def library() -> Library | Absent:
    """The kernels, compiled now if need be (about five seconds, once for a machine and version)."""
    if os.environ.get(SWITCH, "on").lower() in ("off", "0", "no", "false"):
        return Absent(f"{SWITCH} switches them off", f"unset {SWITCH}")
    compiler = _compiler()
    if compiler is None:
        return Absent("no C compiler is on the path", "install gcc or clang, or set CC")
    key = _key(compiler)
    try:
        kept = cache_folder() / "kernels"
        return Library(_found(kept, key) or load(_build(compiler, kept, key)), f"c-{key}")
    except subprocess.SubprocessError as error:
        return Absent(f"{compiler} failed: {_said(error)}", "set CC to a newer gcc or clang")
    except (OSError, LlamaScaleError) as error:
        return Absent(f"they cannot be kept: {error}", "set XDG_CACHE_HOME to a folder that can be written")


def _compiler() -> str | None:
    found = map(shutil.which, filter(None, (os.environ.get("CC"), *COMPILERS)))
    return next(filter(None, found), None)


def _key(compiler: str) -> str:
    """Short hash of everything that decides the machine code."""
    real = Path(compiler).resolve()
    state = real.stat()
    sources = [source.read_text() for source in (*HEADERS, *SOURCES)]
    parts = (sources, FLAGS, str(real), state.st_size, state.st_mtime_ns, _cpu())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _cpu() -> tuple[str, ...]:
    """The CPU's model and features: code for one may not run on another that shares the home folder."""
    if not (facts := cpu_facts()):
        return (platform.platform(), platform.processor())
    return (platform.machine(), *(facts[key] for key in ("model name", "flags", "Features") if key in facts))


def _build(compiler: str, folder: Path, key: str) -> Path:
    """The library, put into `folder`.

    Raises CalledProcessError with what the compiler said, and TimeoutExpired.
    """
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "kernels.so"
        for attempt, cpu in enumerate(FOR_THIS_CPU, 1):
            command = [compiler, *FLAGS, *cpu, "-o", str(target), *map(str, SOURCES), "-lm"]
            last = attempt == len(FOR_THIS_CPU)
            done = subprocess.run(
                command, capture_output=True, text=True, check=last, timeout=COMPILE_SECONDS
            )
            if done.returncode == 0:
                break
        code = target.read_bytes()
    write_atomically(built := folder / _name(key, code), code)
    return built


def _found(folder: Path, key: str) -> ctypes.CDLL | None:
    """The library that an earlier process built; None if there is none, or a torn one.

    Its name holds the hash of its content: a torn one can end the process that loads it.
    """
    for path in folder.glob(f"{key}-*.so"):
        with suppress(OSError):
            if path.name == _name(key, path.read_bytes()):
                return load(path)
    return None


def _name(key: str, code: bytes) -> str:
    return f"{key}-{hashlib.sha256(code).hexdigest()[:12]}.so"


def _said(error: subprocess.SubprocessError) -> str:
    words = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return words[0] if words else "it said nothing"


def load(path: Path) -> ctypes.CDLL:
    """The functions of a compiled library. Raises OSError where it cannot be loaded."""
    functions = ctypes.CDLL(str(path))
    for name, sizes in SIZES_OF.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = ctypes.c_int64, (ctypes.c_int64,) * sizes
    return functions


def _as_c(value: Tensor | int | float | None) -> Any:
    if isinstance(value, Tensor):
        pointer = _Pointer(value.data_ptr())
        pointer.tensor = value
        return pointer
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_void_p() if value is None else ctypes.c_int64(value)
