"""The version that artefacts carry, in real repositories."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llama_scale import __version__
from llama_scale.planning import plan
from llama_scale.version import code_version


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_a_checkout_says_which_commit_it_is_and_whether_it_was_changed(tmp_path: Path) -> None:
    for name in ("clean", "changed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text("1")
        git(tmp_path / name, "init")
        git(tmp_path / name, "add", ".")
        git(tmp_path / name, "commit", "-m", "one")
        git(tmp_path / name, "tag", "v9")  # a tag is no commit
    (tmp_path / "changed" / "code.py").write_text("2")
    commit = re.escape(__version__) + r"\+g[0-9a-f]{12}"
    assert re.fullmatch(commit, code_version(tmp_path / "clean"))
    assert re.fullmatch(commit + r"\.dirty", code_version(tmp_path / "changed"))
    (tmp_path / "clean" / "installed").mkdir()
    assert code_version(tmp_path / "clean" / "installed") == __version__  # another's repository


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_a_commit_is_of_our_repository_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", "ours", "theirs"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "code.py").write_text(name)
        git(tmp_path / name, "init")
        git(tmp_path / name, "add", "code.py")
        git(tmp_path / name, "commit", "-m", f"one of {name}")
    git(tmp_path / "ours", "worktree", "add", "../tree")
    said = code_version(tmp_path / "ours")
    assert code_version(tmp_path / "tree") == said  # its .git is a file
    (tmp_path / "torn" / ".git").mkdir(parents=True)
    assert code_version(tmp_path / "torn") == __version__  # not that of the folder above
    code_version.cache_clear()
    variables = {"GIT_DIR": "", "GIT_INDEX_FILE": "index", "GIT_WORK_TREE": ".."}
    variables |= {"GIT_OBJECT_DIRECTORY": "objects", "GIT_COMMON_DIR": ""}
    for name, of in variables.items():  # as hooks set them
        monkeypatch.setenv(name, str(tmp_path / "theirs" / ".git" / of))
    assert code_version(tmp_path / "ours") == said


def test_no_git_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "none" / ".git").mkdir(parents=True)
    assert code_version(tmp_path / "none") == __version__  # no repository after all
    (tmp_path / "other" / ".git").mkdir(parents=True)
    monkeypatch.setenv("PATH", "")
    assert code_version(tmp_path / "other") == __version__


def test_a_plan_says_what_made_it() -> None:
    made = json.loads(json.dumps(plan(serve_tokens=1e11, budget=1e21).to_json()))["provenance"]
    assert made == {"llama_scale": code_version()}
