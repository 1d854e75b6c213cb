"""Token files: cut at their size, hashed as they are written, mapped as one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from llama_scale.errors import StoreError
from llama_scale.training.shards import file_sha256, map_shards, token_type, write_shards


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_what_is_written_over_several_files_is_read_as_one(tmp_path: Path, dtype: str) -> None:
    tokens = np.random.default_rng(0).integers(60_000, size=1000).astype(dtype)
    stated = write_shards(tmp_path, "train-00", np.split(tokens, [5, 5, 300, 301, 999]), shard_tokens=96)
    assert [shard["tokens"] for shard in stated] == [96] * 10 + [40]
    for shard in stated:
        data = (tmp_path / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(data).hexdigest() == file_sha256(tmp_path / shard["file"])
    found = map_shards(tmp_path, stated, dtype)
    assert found.gather(np.array([0]), 1000)[0].tolist() == tokens.tolist()


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    stated = write_shards(tmp_path, "train-00", [np.arange(25, dtype=np.uint16)], shard_tokens=10)
    (tmp_path / stated[1]["file"]).write_bytes(b"short")
    with pytest.raises(ValueError, match=r"train-00-00001\.bin is 5 bytes"):
        map_shards(tmp_path, stated, "uint16")


def test_a_name_in_a_manifest_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"xx")
    (tmp_path / "data").mkdir()
    with pytest.raises(OSError, match=r"data/secret\.bin"):
        map_shards(tmp_path / "data", [{"file": "../secret.bin", "tokens": 1}], "uint16")


def test_a_file_that_is_gone_is_an_error_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        file_sha256(tmp_path / "gone.bin")


def test_the_smallest_type_that_holds_the_ids() -> None:
    assert [token_type(n) for n in (257, 65_536, 65_537, 2**32)] == ["uint16", "uint16", "uint32", "uint32"]
