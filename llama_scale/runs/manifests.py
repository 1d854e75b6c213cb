"""What a checkpoint says of itself: whose it is, of which step, the hash of each file and its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from llama_scale.canonical import canonical_json
from llama_scale.checked import Checked
from llama_scale.config import structure
from llama_scale.errors import InputError
from llama_scale.files import parse_json
from llama_scale.frozen import frozen
from llama_scale.runs.folders import CHECKPOINT_MANIFEST


@frozen
class Notes(Checked):
    """What a run needs beside its tensors to go on to the bit.

    Sequences computed at once; and of each step that is not logged yet its number, loss, gradient norm and
    learning rate.
    """

    micro_batch: int | None = None
    unlogged: tuple[tuple[int, float, float, float], ...] = ()

    def problems(self) -> Iterator[InputError]:
        if self.micro_batch is not None and self.micro_batch < 1:
            yield InputError(f"micro_batch is {self.micro_batch}", hint="it is at least 1")


@frozen
class Manifest(Checked):
    """The run and step that a checkpoint is of, its notes, and the sha256 of each of its files by name."""

    run: str
    step: int
    notes: Notes
    files: Mapping[str, str]

    def problems(self) -> Iterator[InputError]:
        if not self.files:
            yield InputError("it names no files", hint="a checkpoint has one at least")


def write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    """Write it into the folder of its checkpoint, with the sha256 of its own content; raises OSError."""
    content = canonical_json(manifest)
    text = f'{{"schema":2,"sha256":"{_sha256(content)}","manifest":\n{content}\n}}\n'
    (checkpoint / CHECKPOINT_MANIFEST).write_text(text)


def read_manifest(checkpoint: Path, run: str, step: int) -> Manifest:
    """The manifest in a folder that should hold `step` of `run`.

    Raises ValueError, in words that follow the checkpoint's name, where it says anything but what was
    written there, or is missing, and OSError. Manifests from before they had a hash (schema 1) are refused as
    changed.
    """
    try:
        found = parse_json((checkpoint / CHECKPOINT_MANIFEST).read_text())
        content, stated = found["manifest"], found["sha256"]
        whole = stated == _sha256(canonical_json(content))
    except FileNotFoundError:
        raise ValueError(f"{CHECKPOINT_MANIFEST} is missing") from None
    except KeyError:
        raise ValueError(
            f"{CHECKPOINT_MANIFEST} has no hash of its own (those of earlier versions lack it)"
        ) from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{CHECKPOINT_MANIFEST} holds no manifest ({error})") from None
    if not whole:
        raise ValueError(f"{CHECKPOINT_MANIFEST} has changed since it was saved")
    try:
        manifest = structure(content, Manifest, source=CHECKPOINT_MANIFEST)
    except (InputError, AttributeError) as error:  # the latter of files that are no table
        raise ValueError(f"{CHECKPOINT_MANIFEST} is no manifest: {error}") from None
    if (manifest.run, manifest.step) != (run, step):
        raise ValueError(f"{CHECKPOINT_MANIFEST} is of step {manifest.step} of run {manifest.run}")
    return manifest


def check_files(checkpoint: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Raises ValueError for the first of `names`, or of all, that is not what was saved; and OSError."""
    for name in sorted(manifest.files) if names is None else names:
        if sha256_of(checkpoint / name) != manifest.files[name]:
            raise ValueError(f"{name} has changed since it was saved")


def sha256_of(path: Path) -> str:
    """The hash of a file, read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
