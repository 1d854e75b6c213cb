"""The built-in corpus: installed Python source of packages that llama-scale depends on anyway.

Nothing needs downloading. Each file must hash to what its wheel's RECORD says.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from llama_scale.errors import InputError
from llama_scale.training.documents import Document

BUILTIN_PACKAGES = ("matplotlib", "networkx", "numpy", "scipy", "sympy", "torch")
# Written at build time with dates, paths or compiler names in them, so not the same text for everyone.
GENERATED_FILES = frozenset({"version.py", "_version.py", "__config__.py"})
# Whole sub-packages, about 3 % of the text, one or more from each package: no file of theirs is trained on.
VALIDATION_PACKAGES = (
    "matplotlib/projections",
    "networkx/algorithms/shortest_paths",
    "networkx/generators",
    "numpy/polynomial",
    "scipy/spatial",
    "sympy/geometry",
    "torch/distributions",
    "torch/optim",
)


def builtin_versions() -> dict[str, str]:
    """The installed version of each package."""
    return {package: importlib.metadata.version(package) for package in BUILTIN_PACKAGES}


def builtin_listing() -> list[tuple[str, os.stat_result]]:
    """Every source file below the packages with its size and times, in order: quicker than reading them.

    Raises InputError for a package that is not installed.
    """
    roots = [_distribution(package).locate_file(package) for package in BUILTIN_PACKAGES]
    return [file for root in roots for file in sorted(_sources(str(root)), key=lambda found: found[0])]


def _sources(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sources(entry.path)
            elif entry.name.endswith(".py"):
                yield entry.path, entry.stat()


def is_held_out(document: Document) -> bool:
    """Whether a document of the built-in corpus is of the validation part."""
    return document.name.startswith(tuple(f"{package}/" for package in VALIDATION_PACKAGES))


def builtin_documents() -> Iterator[Document]:
    """The sources of the packages, in order of name.

    Raises InputError for a package without RECORD, and for a file that is not what was installed.
    """
    for package in BUILTIN_PACKAGES:
        files = _installed_files(package)
        for file in sorted(files, key=str):
            path = PurePosixPath(file)
            if path.suffix != ".py" or path.parts[0] != package or path.name in GENERATED_FILES:
                continue
            data = _verified(package, file)
            if data.strip():
                yield Document.of(str(path), data.decode())


def _distribution(package: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"the built-in corpus needs the package {package}, which is not installed",
            hint=f"run `pip install {package}`, or give your own text with data.source in the recipe",
        ) from None


def _installed_files(package: str) -> list[importlib.metadata.PackagePath]:
    distribution = _distribution(package)
    if distribution.read_text("RECORD") is None or not distribution.files:
        raise InputError(
            f"the built-in corpus cannot check {package}: it was installed without a RECORD of its files",
            hint=f"use a virtual environment and `pip install {package}`, or set data.source",
        )
    return distribution.files


def _verified(package: str, file: importlib.metadata.PackagePath) -> bytes:
    try:
        data = Path(str(file.locate())).read_bytes()
    except OSError as error:
        raise InputError(
            f"the built-in corpus cannot read {file}: {error.strerror}",
            hint=f"run `pip install --force-reinstall --no-deps {package}`",
        ) from None
    recorded = file.hash
    if recorded is not None:
        found = base64.urlsafe_b64encode(hashlib.new(recorded.mode, data).digest()).rstrip(b"=").decode()
        if found == recorded.value:
            return data
    raise InputError(
        f"{file} is not the file that {package} installed: its hash differs from RECORD",
        hint=f"run `pip install --force-reinstall --no-deps {package}`",
    )
