"""Texts as they lie in files: plain, JSONL or Parquet, compressed or not, one document at a time.

Nothing here holds more than a document and a block of its file, so texts may be larger than memory.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llama_scale.errors import InputError
from llama_scale.files import parse_json, reason_of
from llama_scale.frozen import frozen

SEPARATOR = "<|endofdoc|>"
PIECE_BYTES = 100_000
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
COMPRESSED = (".gz", ".zst")
TEXT_FIELDS = ("text", "content", "document", "body")  # where data sets keep their text, by custom
PARQUET_ROWS = 256
BLOCK_CHARACTERS = 1_000_000
NAMES, NAME_CHARACTERS = 8, 40  # of fields that an error names
_LINE_END = re.compile(r"\r?\n|\Z")


@frozen
class Document:
    """One text, with the name it is known by and the sha256 of its bytes."""

    name: str
    text: str
    digest: bytes
    size: int

    @classmethod
    def of(cls, name: str, text: str) -> Document:
        """Raises UnicodeEncodeError for half a surrogate pair, which no UTF-8 can hold."""
        data = text.encode()
        return cls(name=name, text=text, digest=hashlib.sha256(data).digest(), size=len(data))


def read_documents(files: Iterable[Path], field: str = "") -> Iterator[Document]:
    """The documents of `files` in order, blank ones left out; formats go by the ends of the names.

    Raises InputError, with the file and line, for what is not UTF-8, JSON, Parquet or lacks the field.
    """
    for file in files:
        for number, text in _texts(file, field):
            if text.strip():
                yield _document(file, number, text)


def text_files(source: Path, *, less: Path | None = None) -> list[Path]:
    """The file itself, or every file below a folder and the folders it links to, in order of path.

    What a desktop or git keeps in hidden places is no text, nor what lies in the folder `less`. Raises
    InputError for what cannot be read twice, as a pipe, or not at all.
    """
    try:
        if not source.is_dir():
            return [_readable(source)]
        hidden_from = {less.resolve()} if less is not None else set()
        return sorted(file for folder in _folders(source, hidden_from) for file in folder)
    except OSError as error:
        raise _unreadable(source, error) from None


def is_there(source: Path) -> bool:
    """Whether there is such a file or folder; raises InputError where that cannot be told."""
    try:
        return source.exists()
    except OSError as error:
        raise _unreadable(source, error) from None


def _unreadable(source: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot read {error.filename or source}: {reason_of(error)}",
        hint="check its name and your permission to read it, or take it out of the source",
    )


def _folders(source: Path, seen: set[Path]) -> Iterator[list[Path]]:
    """The files of `source` and of each folder below it but those `seen`, once however many links lead there.

    Folders come before those that links lead to, so that where a text lies decides what it is called.
    """
    below, linked = [source], []
    while below or linked:
        folder = below.pop() if below else linked.pop(0)
        if (real := folder.resolve()) in seen:
            continue
        seen.add(real)
        files = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if not path.is_dir():
                files.append(_readable(path))
            elif path.is_symlink():
                linked.append(path)
            else:
                below.append(path)
        yield files


def _readable(path: Path) -> Path:
    """`path` itself where it is a file, for a source is read more than once; raises OSError, InputError."""
    try:
        mode = path.stat().st_mode
    except OSError:
        if not path.is_symlink():
            raise
        raise InputError(
            f"{path} is a link to {os.readlink(path)}, which is not there",
            hint="mend the link, or delete it",
        ) from None
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{path} is neither a file nor a folder, and a text is read more than once",
            hint="write its text into a file first, or move it out of the folder",
        )
    return path


def _document(file: Path, number: int, text: str) -> Document:
    try:
        return Document.of(f"{file.name}#{number}", text)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{file}:{number}: character {error.start} of the text is half a surrogate pair, not Unicode",
            hint="mend or drop that document",
        ) from None


def _texts(file: Path, field: str) -> Iterator[tuple[int, str]]:
    """Texts of one file, each with the number of its line, row or piece."""
    ending = _ending(file)
    kind = _ending(file.with_suffix("")) if ending in COMPRESSED else ending
    if kind in PARQUET:
        return _parquet_texts(file, field)
    return _json_texts(file, field) if kind in JSON_LINES else enumerate(_pieces(file))


def _ending(file: Path) -> str:
    """What the name says of the format; some tools shout it."""
    return file.suffix.lower()


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of `file`, uncompressed; what goes wrong while they are read is an InputError."""
    try:
        with _binary(file) as stream:
            yield stream
    except EOFError:
        raise InputError(f"{file} ends in the middle: it was cut off", hint="get that file again") from None
    except (OSError, zlib.error) as error:
        # What the system refuses has a strerror, what gzip and pyarrow cannot unpack has none.
        reason = getattr(error, "strerror", None) or f"it is no {file.suffix} file, or is damaged ({error})"
        raise InputError(f"cannot read {file}: {reason}", hint="check the path, or get it again") from None


def _binary(file: Path) -> IO[bytes]:
    if _ending(file) == ".gz":
        return gzip.open(file)  # type: ignore[return-value]
    if _ending(file) == ".zst":
        return io.BufferedReader(_arrow(file).CompressedInputStream(file.open("rb"), "zstd"))
    return file.open("rb")


def _arrow(file: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{file} needs pyarrow, which is not installed", hint="run `pip install 'llama-scale[data]'`"
        ) from None
    return pyarrow


def _pieces(file: Path) -> Iterator[str]:
    """Documents of a text file: the parts between separator lines, cut at line ends near PIECE_BYTES."""
    text, at = "", 0
    for block in _blocks(file):
        text, at = text[at:] + block, 0
        # The last block is empty: what is left then is all there is.
        while at < len(text) and (not block or len(text) - at > 2 * PIECE_BYTES + len(SEPARATOR) + 2):
            start, end = _piece_end(text, at)
            yield text[at:start]
            at = end


def _piece_end(text: str, at: int) -> tuple[int, int]:
    """Where the piece from `at` on ends, and where the next one begins: after the separator between them.

    A line that is longer than a piece is cut.
    """
    newline = text.find("\n", at + PIECE_BYTES - 1, at + 2 * PIECE_BYTES)
    cut = newline + 1 if newline >= 0 else min(len(text), at + 2 * PIECE_BYTES)
    while (start := text.find(SEPARATOR, at, cut + len(SEPARATOR) - 1)) >= 0:
        if line_end := _LINE_END.match(text, start + len(SEPARATOR)):
            return start, line_end.end()
        at = start + 1
    return cut, cut


def _blocks(file: Path) -> Iterator[str]:
    """The text in large parts, the last of them empty."""
    with _opened(file) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")  # a mark of byte order is no text
        try:
            while block := text.read(BLOCK_CHARACTERS):
                yield block
        except UnicodeDecodeError:
            raise _not_utf8(file) from None
    yield ""


def _not_utf8(file: Path) -> InputError:
    """Where the first byte lies that cannot be decoded: the decoder knows its place in a block only."""
    number, start = 0, 0
    with _opened(file) as stream:
        for line in stream:
            number += 1
            try:
                line.decode()
            except UnicodeDecodeError as error:
                start += error.start
                break
            start += len(line)
    return InputError(
        f"{file}:{number}: not UTF-8: byte {start} cannot be decoded",
        hint="convert it, for example with `iconv -f latin1 -t utf8`, or take it out of the folder",
    )


def _json_texts(file: Path, field: str) -> Iterator[tuple[int, str]]:
    """The field's text of every line that is not blank, with the line's number from 1 up."""
    with _opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            record = _json_record(file, number, line)
            field = field or field_of(f"{file}:{number}", record)
            if field in record and record[field] is None:
                continue  # as an empty cell of Parquet
            if not isinstance(record.get(field), str):
                raise _no_text(file, number, record, field)
            yield number, record[field]


def _no_text(file: Path, number: int, record: dict[str, Any], field: str) -> InputError:
    if field in record:
        found = f"is {json.dumps(record[field])[:NAME_CHARACTERS]}, no text"
        hint = "put it in quotes, or drop that line"
    else:
        hint = f"the line has {named(record) or 'no fields'}: mend it, or name the text with field = ..."
        found = "is missing"
    return InputError(f"{file}:{number}: the field {field!r} {found}", hint=hint)


def _json_record(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}:{number}: not UTF-8: byte {error.start} of the line cannot be decoded",
            hint="convert the file, for example with `iconv -f latin1 -t utf8`",
        ) from None
    except ValueError as error:
        raise InputError(
            f"{file}:{number}: not JSON: {error}", hint="each line must be one JSON object: mend or drop it"
        ) from None
    if not isinstance(record, dict):
        raise InputError(
            f"{file}:{number}: a JSON {type(record).__name__}, not an object",
            hint='each line must be an object such as {"text": "..."}',
        )
    return record


def field_of(place: str, record: Mapping[str, Any]) -> str:
    """The field that holds the text, by the first record there is."""
    fields = [name for name, value in record.items() if isinstance(value, str)]
    return text_field(place, fields, [name for name, value in record.items() if value is None])


def text_field(place: str, fields: list[str], nulls: Sequence[str] = ()) -> str:
    """The field that holds the text: one with a customary name, or the only one that is text.

    `nulls` are empty at `place` and may be text elsewhere. Raises InputError where that leaves a doubt: a
    guess would learn from titles or numbers in place of texts, and nobody would hear of it.
    """
    customary = [name for name in TEXT_FIELDS if name in fields or name in nulls]
    found = customary or [*fields, *nulls]
    if len(found) == 1 or (customary and found[0] in fields):
        return found[0]
    empty = f"{named(nulls)} may be where it is not null" if nulls else ""
    verb = "is" if len(fields) == 1 else "are all"
    known = f"{named(fields)} {verb} text" if fields else "none of them is text"
    raise InputError(
        f"{place}: cannot tell which field is the text: {known}{f', {empty}' if empty else ''}",
        hint="name it: [[data.sources]] with source = ... and field = ...",
    )


def named(fields: Iterable[str]) -> str:
    """Fields as a line can name them, however odd they are."""
    names = [json.dumps(name, ensure_ascii=not name.isprintable())[1:-1][:NAME_CHARACTERS] for name in fields]
    return ", ".join(names[:NAMES]) + (", ..." if len(names) > NAMES else "")


def _parquet_texts(file: Path, field: str) -> Iterator[tuple[int, str]]:
    """The column's text of every row, with the row's number from 0 up; empty cells are left out."""
    with _parquet(file) as opened:
        column = _text_column(file, opened.schema_arrow, field)
        batches = opened.iter_batches(batch_size=PARQUET_ROWS, columns=[column])
        cells = (cell for batch in batches for cell in batch.column(0).to_pylist())
        yield from ((row, text) for row, text in enumerate(cells) if text is not None)


def _text_column(file: Path, schema: Any, field: str) -> str:
    """The column called `field`, or the one that holds the text; raises InputError where there is none."""
    types = _arrow(file).types
    columns = [column.name for column in schema if _holds_text(types, column.type)]
    if field and field not in columns:
        raise InputError(
            f"{file} has no column of text called {field!r}",
            hint=f"its columns of text are {named(columns) or 'none'}",
        )
    return field or text_field(str(file), columns)


def _holds_text(types: Any, kind: Any) -> bool:
    """Whether a column is of text, as it stands or as a dictionary of the texts that occur."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


@contextmanager
def _parquet(file: Path) -> Iterator[Any]:
    """The opened file; what goes wrong while it is read is an InputError."""
    arrow = _arrow(file)
    try:
        with arrow.parquet.ParquetFile(file) as opened:
            yield opened
    except (OSError, arrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} is no Parquet file, or is damaged: {error}".splitlines()[0], hint="get that file again"
        ) from None
