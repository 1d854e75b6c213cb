"""Datasets of the Hugging Face hub: streamed once into JSONL beside the tokens, then read like any file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llama_scale.canonical import canonical_hash, canonical_json
from llama_scale.errors import InputError
from llama_scale.files import publish_folder, write_atomically
from llama_scale.runs import BUILTIN, HUB, SourceConfig
from llama_scale.training.documents import field_of, named

FILE_BYTES = 1_000_000_000
FETCHED = "fetched"
NAME_CHARACTERS = 80
FIELD = "text"  # of what is fetched, whatever the dataset called it


def fetched_folder(source: SourceConfig, store: Path) -> Path:
    """Where a dataset of the hub lies once it is fetched: named by all that decides what is read."""
    wanted = [source.source, source.subset, source.split, source.revision, source.field, source.limit_bytes]
    name = re.sub(r"[^\w.-]+", "-", source.label)[:NAME_CHARACTERS].lstrip(".-")  # a label may be any words
    return store / "data" / FETCHED / f"{name}-{canonical_hash(wanted)}"


def fetch(source: SourceConfig, store: Path) -> Path:
    """Stream a dataset into files of JSONL, up to `limit_bytes` of text, unless that was done before.

    The folder appears whole or not at all. Raises InputError without the extra, without the network,
    and for a dataset, subset or field that is not there.
    """
    folder = fetched_folder(source, store)
    if not folder.exists():
        with publish_folder(folder) as new:
            documents = _write(_texts(source), source.limit_bytes, new)
            about = {"fetched": datetime.now(UTC).isoformat(), "documents": documents, **asdict(source)}
            write_atomically(new / ".about.json", json.dumps(about, indent=1))
    return folder


def _texts(source: SourceConfig) -> Iterator[str]:
    """The dataset's texts, one row at a time; every failure of the library is one error of ours."""
    try:
        field = source.field
        for row in _rows(source):
            field = field or field_of(source.source, row)
            if field not in row:
                raise InputError(
                    f"{source.source} has no field {field!r}", hint=f"its fields are {named(row)}"
                )
            if row[field] is None:
                continue
            if not isinstance(row[field], str):
                raise InputError(
                    f"the field {field!r} of {source.source} is of {type(row[field]).__name__}, no text",
                    hint=f"name another with field = ...; its fields are {named(row)}",
                )
            yield row[field]
    except InputError:
        raise
    except Exception as error:  # of requests, of the hub, of fsspec, of pyarrow: there is no common one
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"cannot fetch {source.source}: {said}",
            hint=f'check the name and the network, or use the source "{BUILTIN}", which needs neither',
        ) from error


def _rows(source: SourceConfig) -> Iterator[dict[str, Any]]:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"{source.source} needs the package datasets, which is not installed",
            hint=f"run `pip install 'llama-scale[data]'`, or use the source \"{BUILTIN}\"",
        ) from None
    name, revision = source.source.removeprefix(HUB), source.revision or None
    if not Path(name).exists():
        # Asked once: the library itself would try for half a minute, and say so five times.
        revision = huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=20).sha
    yield from datasets.load_dataset(
        name, source.subset or None, split=source.split, revision=revision, streaming=True
    )


def _write(texts: Iterator[str], limit: int | None, folder: Path) -> int:
    """Lines {"text": ...} in files of about FILE_BYTES; returns how many."""
    documents, size, file = 0, 0, None
    with ExitStack() as opened:
        for text in texts:
            if file is None or file.tell() >= FILE_BYTES:
                opened.close()
                path = folder / f"documents-{documents:012d}.jsonl"  # in order, by name
                file = opened.enter_context(path.open("wb"))
            file.write(canonical_json({FIELD: text}).encode() + b"\n")
            documents, size = documents + 1, size + len(text.encode("utf-8", "surrogatepass"))
            if limit is not None and size >= limit:
                break
    return documents
