"""Texts in files: every format read alike, cut alike, and what is broken named by file and line."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llama_scale.errors import InputError
from llama_scale.training.documents import (
    PIECE_BYTES,
    SEPARATOR,
    Document,
    is_there,
    read_documents,
    text_files,
)

TEXTS = ["first\n", "the second, naïve 😀", "a third\nof two lines"]


def read(*files: Path, field: str = "") -> list[str]:
    return [document.text for document in read_documents(files, field)]


def json_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(texts)).encode()


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("ending", PACKED)
def test_jsonl_is_read_whatever_packs_it(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"texts.jsonl{ending}"
    file.write_bytes(PACKED[ending](json_lines(TEXTS)))
    assert read(file) == TEXTS


@pytest.mark.parametrize("ending", PACKED)
def test_text_is_cut_at_separators_whatever_packs_it(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"texts.txt{ending}"
    file.write_bytes(PACKED[ending](f"{SEPARATOR}\n".join(TEXTS).encode()))
    assert read(file) == TEXTS


def test_parquet_is_read_in_any_number_of_row_groups(tmp_path: Path) -> None:
    texts = [f"row {n}" for n in range(700)]
    table = pyarrow.table({"id": range(700), "text": texts})
    pyarrow.parquet.write_table(table, tmp_path / "one.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "many.parquet", row_group_size=9)
    assert read(tmp_path / "one.parquet") == read(tmp_path / "many.parquet") == texts


def test_empty_cells_and_blank_texts_are_left_out(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, " \n", "b"]}), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n\n{"text": null}\n{"text": " "}\n{"text": "b"}')
    assert read(tmp_path / "t.parquet") == read(tmp_path / "t.jsonl") == ["a", "b"]


def test_a_folder_may_hold_every_format(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / "b" / "lines.jsonl").write_bytes(json_lines(["line"]))
    pyarrow.parquet.write_table(pyarrow.table({"content": ["cell"]}), tmp_path / "c.parquet")
    assert read(*text_files(tmp_path)) == ["plain", "line", "cell"]


def test_the_field_is_found_or_chosen(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"id": 7, "story": "once", "score": 0.5}) + "\n")
    assert read(file) == ["once"]  # the only one that is text
    file.write_text(json.dumps({"title": "t", "story": "once", "text": "upon"}) + "\n")
    assert read(file) == ["upon"]
    assert read(file, field="story") == ["once"]
    pyarrow.parquet.write_table(pyarrow.table({"url": ["u"], "code": ["c"]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="url, code are all text"):
        read(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", field="code") == ["c"]


def test_a_field_that_is_null_at_first_is_still_the_text(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"

    def holding(*records: object) -> Path:
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        return file

    assert read(holding({"text": None, "id": "a7"}, {"text": "once", "id": "a8"})) == ["once"]
    assert read(holding({"story": None, "n": 1}, {"story": "upon", "n": 2})) == ["upon"]
    assert read(holding({"text": "a", "content": None})) == ["a"]
    with pytest.raises(InputError, match="id is text, story may be where it is not null"):
        read(holding({"story": None, "id": "a7"}, {"story": "upon", "id": "a8"}))
    with pytest.raises(InputError, match="body is text, text may be"):
        read(holding({"text": None, "body": "b"}, {"text": "a", "body": None}))


def test_columns_of_text_are_so_however_they_are_kept(tmp_path: Path) -> None:
    texts = pyarrow.array(["a", "b", "a"])
    views = pyarrow.array(["a", "b", "a"], pyarrow.string_view())
    for column in (texts, texts.dictionary_encode(), texts.cast(pyarrow.large_string()), views):
        pyarrow.parquet.write_table(pyarrow.table({"text": column, "n": [1, 2, 3]}), tmp_path / "t.parquet")
        assert read(tmp_path / "t.parquet") == ["a", "b", "a"]


def test_names_are_read_in_either_case_and_marks_of_byte_order_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "T.JSONL.GZ").write_bytes(gzip.compress(json_lines(["a"])))
    (tmp_path / "t.Txt").write_bytes(b"\xef\xbb\xbfb\r\n\xef\xbb\xbfc")
    (tmp_path / "u.txt").write_bytes(b"\xef\xbb\xbf")
    assert read(*text_files(tmp_path)) == ["a", "b\r\n\ufeffc"]


def test_odd_names_of_fields_stay_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"a\nb": "x", "\ud800": "y", "k" * 5000: "z"}) + "\n")
    with pytest.raises(InputError) as refusal:
        read(tmp_path / "t.jsonl")
    assert r"a\nb, \ud800, kkk" in refusal.value.message
    assert "\n" not in refusal.value.message and len(refusal.value.message) < 400
    refusal.value.message.encode()


def test_folders_that_links_lead_to_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "b.txt").write_text("b")
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "a.txt").write_text("a")
    (source / "linked").symlink_to(tmp_path / "far")
    (source / "again").symlink_to(tmp_path / "far")
    (source / "0").symlink_to(source / "sub")
    (source / "sub" / "round").symlink_to(source)
    (source / "link.txt").symlink_to(tmp_path / "far" / "b.txt")
    names = [str(file.relative_to(source)) for file in text_files(source)]
    assert names == ["again/b.txt", "link.txt", "sub/a.txt"]


def test_what_cannot_be_read_is_named_and_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"gone\.txt is a link to .*nowhere, which is not there"):
        text_files(source)
    (source / "gone.txt").unlink()
    os.mkfifo(source / "pipe.txt")
    for place in (source, source / "pipe.txt"):
        with pytest.raises(InputError, match=r"pipe\.txt is neither a file nor a folder"):
            text_files(place)
    (source / "pipe.txt").unlink()
    with pytest.raises(InputError, match=r"cannot read .*: file name too long"):
        is_there(source / ("x" * 300))
    (source / "sub").chmod(0)
    monkeypatch.chdir(tmp_path)  # from here: others may not look into the folders above
    with as_nobody(), pytest.raises(InputError, match="cannot read source/sub: permission denied"):
        text_files(Path("source"))


@contextmanager
def as_nobody() -> Iterator[None]:
    """The superuser may read everything: be somebody else for a while."""
    user = os.geteuid()
    if user == 0:
        os.chmod(".", 0o755)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("seed", range(5))
def test_text_is_cut_as_the_whole_file_would_be(tmp_path: Path, seed: int) -> None:
    """Against the plain definition, on the whole text at once: lines of all lengths, separators anywhere."""
    rng = random.Random(seed)
    parts = []
    for _ in range(rng.randrange(200, 1200)):
        parts.append("é" * rng.choice([0, 3, 80, 5_000]) + rng.choice(["\n", "\n", SEPARATOR + "\n", " "]))
    text = "".join(parts) + rng.choice(["", SEPARATOR])
    expected = []
    for part in text.removesuffix(SEPARATOR).split(f"{SEPARATOR}\n"):
        piece = ""
        for line in part.splitlines(keepends=True):
            piece += line
            if len(piece) >= PIECE_BYTES:
                expected.append(piece)
                piece = ""
        expected.append(piece)
    (tmp_path / "t.txt").write_bytes(text.encode())
    assert read(tmp_path / "t.txt") == [piece for piece in expected if piece.strip()]


def test_a_line_without_end_is_cut_and_nothing_of_it_lost(tmp_path: Path) -> None:
    text = "".join(chr(97 + n % 26) for n in range(7 * PIECE_BYTES + 5))
    (tmp_path / "t.txt").write_text(text)
    pieces = read(tmp_path / "t.txt")
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 2 * PIECE_BYTES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": "b"\n', r"bad\.jsonl:2: not JSON"),
        (b'{"text": "a"}\n\n["b"]\n', r"bad\.jsonl:3: a JSON list, not an object"),
        (b'{"text": "a"}\n{"txt": "b"}\n', r"bad\.jsonl:2: the field 'text' is missing"),
        (b'{"text": "a"}\n{"text": 7}\n', r"bad\.jsonl:2: the field 'text' is 7, no text"),
        (b'{"a": "a", "b": "b"}\n', r"bad\.jsonl:1: cannot tell which field is the text: a, b are all"),
        (b'{"a": 1}\n', r"bad\.jsonl:1: cannot tell which field is the text: none"),
        (b'{"text": "a"}\n{"text": "\xe9"}\n', r"bad\.jsonl:2: not UTF-8: byte 10"),
        (b'{"text": "a"}\n{"text": "x\\ud800"}\n', r"bad\.jsonl:2: character 1 .* surrogate"),
        (b"[" * 100_000 + b"\n", r"bad\.jsonl:1: not JSON"),
    ],
)
def test_broken_jsonl_is_named_by_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read(file)
    assert refusal.value.hint


def test_a_byte_that_is_not_utf8_is_found_far_into_a_file(tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes("é line\n".encode() * 300_000 + b"ab\xff\n")
    with pytest.raises(InputError, match=rf"bad\.txt:300001: not UTF-8: byte {8 * 300_000 + 2} "):
        read(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.txt.gz",
            gzip.compress(random.Random(0).randbytes(9000).hex().encode())[:-9],
            "ends in the middle",
        ),
        ("t.txt.gz", b"plain text", "damaged"),
        ("t.txt.zst", b"plain text", "damaged"),
        ("t.parquet", b"PAR1 no more than that", "no Parquet file"),
        ("t.parquet", b"", "no Parquet file"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"n": [1], "code": ["c"]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no column of text called 'text'") as refusal:
        read(tmp_path / "t.parquet", field="text")
    assert "code" in refusal.value.hint


def test_novels_packed_with_zstd_are_read_whole(shared_data: Path) -> None:
    """The sha256 of the raw text is in the data's own README; separators lie between documents."""
    documents = list(read_documents([shared_data / "novels98.val.txt.zst"]))
    assert sum(document.size for document in documents) == 3_693_730 - 4 * len(f"{SEPARATOR}\n")
    assert documents[0] == Document.of(documents[0].name, documents[0].text)
