from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import small_disk

from llama_scale.errors import StoreError
from llama_scale.files import (
    ABANDONED_SECONDS,
    at_home,
    is_left_behind,
    make_folder,
    parse_json,
    publish_folder,
    write_atomically,
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "256k") as disk:
        yield disk


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "result.json"
    write_atomically(path, '{"größe": 1}')
    assert path.read_bytes() == '{"größe": 1}'.encode()
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["result.json"]


def test_the_file_has_the_mode_that_open_would_give(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_full_disk_leaves_the_old_file_and_no_litter(disk: Path) -> None:
    path = disk / "result.json"
    write_atomically(path, "old")
    with pytest.raises(StoreError, match="no space left") as raised:
        write_atomically(path, b"x" * 2**20)
    assert "free some space" in raised.value.hint
    assert path.read_text() == "old"
    assert os.listdir(disk) == ["result.json"]


def test_a_read_only_disk_is_named(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StoreError, match="read-only") as raised:
        write_atomically(disk / "result.json", "x")
    assert "--store" in raised.value.hint


def test_what_a_killed_process_left_is_known_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from llama_scale.files import publish_folder
with publish_folder(Path(sys.argv[1]) / "text") as new:
    (new / "part").write_text("half")
    print(new, flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    assert left.parent == tmp_path and not is_left_behind(left)
    process.kill()
    process.communicate()
    assert is_left_behind(left)
    with publish_folder(tmp_path / "other"):
        assert left.exists()
    copy = shutil.copytree(left, tmp_path / "copy")
    with publish_folder(tmp_path / "text") as new:  # who makes the same again clears it away
        assert new.exists() and not left.exists()
    copy.rename(left)
    elsewhere = left.rename(tmp_path / ".text.00000000-1-00000000.tmp")  # another machine's: who knows
    assert not is_left_behind(elsewhere)
    long_ago = time.time() - 2 * ABANDONED_SECONDS
    os.utime(elsewhere, (long_ago, long_ago))
    assert not is_left_behind(elsewhere)
    os.utime(elsewhere / "part", (long_ago, long_ago))
    assert is_left_behind(elsewhere)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write into any folder")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="permission denied"):
        write_atomically(tmp_path / "result.json", "x")
    tmp_path.chmod(0o700)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("I am a file")
    with pytest.raises(StoreError, match="cannot write") as raised:
        write_atomically(tmp_path / "runs" / "result.json", "x")
    assert "a file stands" in raised.value.hint
    with pytest.raises(StoreError, match="cannot make the folder"):
        make_folder(tmp_path / "runs")


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    with pytest.raises(StoreError):
        write_atomically(tmp_path / "result.json", "x")
    assert os.listdir(tmp_path) == ["result.json"]


def test_kill_at_any_instant_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process that rewrites one file for ever is killed; the file is whole each time."""
    path = tmp_path / "result.json"
    code = (
        "import sys\nfrom pathlib import Path\nfrom llama_scale.files import write_atomically\n"
        "n = 0\nwhile True:\n    write_atomically(Path(sys.argv[1]), f'{n % 10}' * 100_000)\n    n += 1\n"
    )
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.03)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = path.read_text()
        assert len(content) == 100_000
        assert len(set(content)) == 1


def test_who_writes_a_file_next_clears_away_what_the_killed_left_of_it(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from llama_scale.files import write_atomically
wait = lambda: print("about to rename", flush=True) or time.sleep(60)
write_atomically(Path(sys.argv[1]), "half", check=wait)
"""
    path = tmp_path / "result.json"
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline()
    [left] = os.listdir(tmp_path)
    write_atomically(path, "whole")
    assert sorted(os.listdir(tmp_path)) == [left, "result.json"]  # somebody may still be at it
    process.kill()
    process.communicate()
    write_atomically(tmp_path / "result.js", "another file")
    assert (tmp_path / left).exists()
    write_atomically(path, "whole")
    assert sorted(os.listdir(tmp_path)) == ["result.js", "result.json"]


@pytest.mark.parametrize("text", [b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'])
def test_json_may_begin_with_a_byte_order_mark(text: str | bytes) -> None:
    assert parse_json(text) == {"a": 1}


def test_a_home_is_spelt_out_and_one_that_nobody_has_is_a_name_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert at_home("~/text") == at_home(Path("~/text")) == Path("/somewhere/text")
    assert at_home("~no such user/text") == Path("~no such user/text")
