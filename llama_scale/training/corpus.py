"""The text that a sweep learns from: documents, split into train and validation, with their hashes.

The built-in corpus is the installed Python source of packages that llama-scale depends on anyway, so
that nothing needs downloading. Each file must hash to what its wheel's RECORD says.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llama_scale.errors import InputError

BUILTIN = "builtin"
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

SEPARATOR = "<|endofdoc|>"
PIECE_BYTES = 100_000
VALIDATION_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text, with the name it is known by and the sha256 of its bytes."""

    name: str
    text: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Shuffled documents in two parts; `sha256` names both parts and their order."""

    source: str
    versions: dict[str, str]
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    sha256: str


def read_corpus(source: str = BUILTIN, *, seed: int = 0) -> Corpus:
    """Read the built-in corpus, or a text file or folder of the user's.

    Documents that occur twice are kept once, in the validation part if they occur there. Raises
    InputError for a package without RECORD, a file that is not what was installed, and text that is
    empty, not UTF-8 or too short to split.
    """
    if source == BUILTIN:
        train, validation = _split_by_package(_builtin_documents())
        versions = {package: importlib.metadata.version(package) for package in BUILTIN_PACKAGES}
    else:
        train, validation = _split_by_hash(_unique(_user_documents(Path(source).expanduser())))
        versions = {}
    for part in (train, validation):
        random.Random(seed).shuffle(part)
    digest = hashlib.sha256()
    for part in (train, validation):
        for document in part:
            digest.update(bytes.fromhex(document.sha256))
        digest.update(b"|")
    return Corpus(
        source=source,
        versions=versions,
        train=tuple(train),
        validation=tuple(validation),
        sha256=digest.hexdigest(),
    )


def _builtin_documents() -> Iterator[Document]:
    for package in BUILTIN_PACKAGES:
        files = _installed_files(package)
        for file in sorted(files, key=str):
            path = PurePosixPath(file)
            if path.suffix != ".py" or path.parts[0] != package or path.name in GENERATED_FILES:
                continue
            data = _verified(package, file)
            if data.strip():
                yield _document(str(path), data)


def _installed_files(package: str) -> list[importlib.metadata.PackagePath]:
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"the built-in corpus needs the package {package}, which is not installed",
            hint=f"run `pip install {package}`, or give your own text with data.source in the recipe",
        ) from None
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


def _split_by_package(documents: Iterable[Document]) -> tuple[list[Document], list[Document]]:
    parts: tuple[list[Document], list[Document]] = ([], [])
    for document in documents:
        held_out = document.name.startswith(tuple(f"{package}/" for package in VALIDATION_PACKAGES))
        parts[held_out].append(document)
    validation = _unique(parts[True])
    held_out_hashes = {document.sha256 for document in validation}
    return [d for d in _unique(parts[False]) if d.sha256 not in held_out_hashes], validation


def _split_by_hash(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """A document is held out if its hash falls in the lowest share; at least one is, the lowest of all."""
    if len(documents) < 2:
        raise InputError(
            "the text is one single document, so none can be held out for validation",
            hint=f"give at least {2 * PIECE_BYTES // 1000} kB of text, or several files, as data.source",
        )
    limit = max(min(d.sha256 for d in documents), f"{int(VALIDATION_SHARE * 16**8):08x}")
    held_out = [d for d in documents if d.sha256 <= limit]
    return [d for d in documents if d.sha256 > limit], held_out


def _user_documents(source: Path) -> Iterator[Document]:
    if not source.exists():
        raise InputError(
            f"data.source {str(source)!r} does not exist",
            hint=f'give a UTF-8 text file or a folder of them, or "{BUILTIN}"',
        )
    files = sorted(_visible_files(source)) if source.is_dir() else [source]
    found = False
    for file in files:
        for number, piece in enumerate(_pieces(_read_text(file))):
            found = True
            yield _document(f"{file.name}#{number}", piece.encode())
    if not found:
        raise InputError(
            f"data.source {str(source)!r} holds no text",
            hint=f'give a UTF-8 text file or a folder of them, or "{BUILTIN}"',
        )


def _visible_files(folder: Path) -> Iterator[Path]:
    """Files below `folder`, without those that a desktop or git keeps in hidden places."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(
            f"cannot read {str(file)!r}: {error.strerror}", hint="check the path and its permissions"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(file)!r} is not UTF-8: byte {error.start} cannot be decoded",
            hint="convert it, for example with `iconv -f latin1 -t utf8`, or take it out of the folder",
        ) from None


def _pieces(text: str) -> Iterator[str]:
    """Documents of a file: the parts between separator lines, cut at line ends near PIECE_BYTES."""
    for part in text.split(f"{SEPARATOR}\n"):
        lines, size = [], 0
        for line in part.splitlines(keepends=True):
            lines.append(line)
            size += len(line)
            if size >= PIECE_BYTES:
                yield "".join(lines)
                lines, size = [], 0
        if "".join(lines).strip():
            yield "".join(lines)


def _document(name: str, data: bytes) -> Document:
    return Document(name=name, text=data.decode("utf-8"), sha256=hashlib.sha256(data).hexdigest())


def _unique(documents: Iterable[Document]) -> list[Document]:
    return list({document.sha256: document for document in documents}.values())
