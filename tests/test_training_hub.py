"""Datasets of the hub: streamed by the library that fetches them, here from a local Parquet repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llama_scale.errors import InputError
from llama_scale.files import make_folder
from llama_scale.runs import DataConfig, SourceConfig
from llama_scale.training import hub
from llama_scale.training.corpus import absent_sources, read_corpus
from llama_scale.training.hub import fetch, fetched_folder

pytest.importorskip("datasets")
TEXTS = [f"story {n}: {'and then ' * (n % 7)}the end" for n in range(500)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset's repository as the hub has it: Parquet files of a split, in a folder."""
    folder = make_folder(tmp_path / "stories" / "data")
    for part in range(2):
        table = pyarrow.table({"id": range(250), "text": TEXTS[part * 250 : part * 250 + 250]})
        pyarrow.parquet.write_table(table, folder / f"train-{part:05d}-of-00002.parquet", row_group_size=40)
    return folder.parent


def test_a_dataset_is_fetched_once_and_read_as_its_parquet_would_be(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "FILE_BYTES", 3000)
    config = DataConfig(source=f"hub:{dataset}")
    assert absent_sources(config, tmp_path) == (f"hub:{dataset}",)
    corpus = read_corpus(config, tmp_path)
    assert len(list(fetched_folder(config.mixture[0], tmp_path).glob("*.jsonl"))) > 3
    local = DataConfig(source=str(dataset))
    assert corpus.corpus == read_corpus(local, tmp_path).corpus
    for file in dataset.rglob("*.parquet"):
        file.unlink()
    assert absent_sources(config, tmp_path) == ()
    assert read_corpus(config, tmp_path).corpus == corpus.corpus


def test_streaming_stops_at_the_limit(dataset: Path, tmp_path: Path) -> None:
    source = SourceConfig(source=f"hub:{dataset}", limit_bytes=2000)
    size = sum(len(text.encode()) for text in TEXTS)
    lines = b"".join(file.read_bytes() for file in sorted(fetch(source, tmp_path).glob("*.jsonl")))
    assert 2000 <= len(lines) < 4000 < size


def test_a_first_row_without_text_hides_no_field_and_a_name_leads_nowhere_else(tmp_path: Path) -> None:
    rows = pyarrow.table({"key": ["k1", "k2"], "text": [None, "once"]})
    make_folder(tmp_path / "stories")
    pyarrow.parquet.write_table(rows, tmp_path / "stories" / "train.parquet")
    folder = fetch(SourceConfig(source=f"hub:{tmp_path / 'stories'}", name="../../a b"), tmp_path / "store")
    assert folder.parent == tmp_path / "store" / "data" / "fetched"
    assert [file.read_text() for file in folder.glob("*.jsonl")] == ['{"text":"once"}\n']


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "Bad split: test"),
        ({"subset": "german"}, "german"),
        ({"field": "story"}, "has no field 'story'"),
        ({"field": "id"}, "the field 'id' of .* is of int, no text"),
    ],
)
def test_what_a_dataset_lacks_is_one_clear_error(
    dataset: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    source = SourceConfig(source=f"hub:{dataset}", **changes)
    with pytest.raises(InputError, match=message):
        fetch(source, tmp_path)
    assert not fetched_folder(source, tmp_path).exists()
    assert not list((tmp_path / "data" / "fetched").iterdir())


def test_without_the_network_one_error_names_the_builtin_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy on a port where nothing listens: whoever runs this may be online."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="cannot fetch hub:someone/stories") as refusal:
        fetch(SourceConfig(source="hub:someone/stories"), tmp_path)
    assert '"builtin"' in refusal.value.hint
