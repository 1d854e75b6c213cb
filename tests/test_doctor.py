from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from control_group import limited

from llama_scale.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def doctor(*words: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *words], prog_name="llama-scale")


def checks(*words: str) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(doctor("--json", *words).stdout)["checks"]}


def test_a_machine_that_runs_these_tests_is_ready() -> None:
    result = doctor()
    assert result.exit_code == 0
    assert result.stdout.startswith("This machine is ready.")
    assert "next: llama-scale sweep" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_everything_promised_is_looked_at() -> None:
    found = checks()
    for name in (
        "python",
        "torch",
        "numpy",
        "scipy",
        "cpu",
        "cuda",
        "bf16",
        "kernels",
        "memory",
        "disk",
        "store",
        "corpus",
    ):
        assert found[name]["status"] in ("pass", "warn")
    assert {"extra test", "extra bench", "settings"} <= set(found)


def test_memory_is_what_the_control_group_leaves(tmp_path: Path) -> None:
    with limited(tmp_path, 2 * 2**30, f"{sys.executable} -m llama_scale") as program:
        said = subprocess.run([program, "doctor", "--json"], capture_output=True, text=True, check=True)
    (memory,) = (check for check in json.loads(said.stdout)["checks"] if check["name"] == "memory")
    assert memory["status"] == "warn" and memory["found"].startswith("1.")


def test_looking_leaves_nothing_behind(folder: Path) -> None:
    doctor()
    assert list(folder.iterdir()) == []


def test_a_store_that_cannot_be_made_fails_with_the_way_out(folder: Path) -> None:
    (folder / "file").write_text("")
    found = checks("--store", "file/runs")
    assert found["store"]["status"] == "fail"
    assert "--store" in found["store"]["fix"]
    result = doctor("--store", "file/runs")
    assert result.exit_code == 1
    assert result.stdout.startswith("Not ready: store.")
    assert "next:" not in result.stdout


def test_a_mistake_in_the_settings_of_any_command_is_found() -> None:
    Path("llama-scale.toml").write_text("[plan]\nbugdet = 3\n")
    found = checks()["settings"]
    assert found["status"] == "fail"
    assert "plan.bugdet is not a known key" in found["found"]
    assert found["fix"] == "did you mean 'budget'?"


def test_a_variable_that_nothing_reads_is_worth_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SCALE_PLAN_BUGDET", "1e24")
    found = checks()["settings"]
    assert found["status"] == "warn"
    assert found["fix"] == "did you mean LLAMA_SCALE_PLAN_BUDGET?"
    assert doctor().exit_code == 0


def test_the_switch_of_the_kernels_is_a_variable_that_something_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAMA_SCALE_KERNELS", "on")
    assert checks()["settings"]["status"] == "pass"


def test_a_machine_without_a_compiler_is_ready_and_told_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_scale.training.kernels import library

    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    library.cache_clear()
    try:
        found = checks()["kernels"]
    finally:
        library.cache_clear()
    assert found["status"] == "warn"
    assert "no C compiler" in found["found"]
    assert "gcc or clang" in found["fix"]
