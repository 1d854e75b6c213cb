"""What is built and installed: the recipes are inside, the records of our own sweeps are not."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from llama_scale import __version__

REPOSITORY = Path(__file__).resolve().parent.parent


def build(folder: Path, source: Path, kind: str) -> Path:
    """Builds as pip would, without the network; gives the file that came out."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), REPOSITORY, "wheel")


@pytest.fixture(scope="module")
def wheel_of_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = build(tmp_path_factory.mktemp("sdist"), REPOSITORY, "sdist")
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as files:
        files.extractall(unpacked, filter="data")
    return build(tmp_path_factory.mktemp("again"), next(unpacked.iterdir()), "wheel")


@pytest.mark.parametrize("name", ["wheel", "wheel_of_sdist"])
def test_the_recipes_ship_as_real_files(name: str, request: pytest.FixtureRequest) -> None:
    with zipfile.ZipFile(request.getfixturevalue(name)) as archive:
        names = set(archive.namelist())
        recipes = sorted(REPOSITORY.glob("sweeps/*.toml"))
        assert recipes
        for recipe in recipes:
            assert archive.read(f"llama_scale/data/sweeps/{recipe.name}") == recipe.read_bytes()
        for file in (REPOSITORY / "llama_scale" / "data").rglob("*.toml"):
            assert str(file.relative_to(REPOSITORY)) in names
        sources = [*(REPOSITORY / "llama_scale" / "training" / "kernels").glob("*.[ch]")]
        assert len(sources) == 5
        for source in sources:
            assert archive.read(str(source.relative_to(REPOSITORY))) == source.read_bytes()
        assert not [name for name in names if "sweeps/results" in name or name.startswith(("tests", "docs"))]
        assert f"llama_scale-{__version__}.dist-info/licenses/LICENSE" in names
        assert sum(file.file_size for file in archive.filelist) < 4e6


def test_both_wheels_hold_the_same(wheel: Path, wheel_of_sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(wheel_of_sdist) as other:
        assert {f.filename: f.CRC for f in one.filelist} == {f.filename: f.CRC for f in other.filelist}


def test_the_link_to_the_recipes_is_committed() -> None:
    link = REPOSITORY / "llama_scale" / "data" / "sweeps"
    assert link.is_symlink()
    assert os.readlink(link) == os.path.join("..", "..", "sweeps")


@pytest.mark.parametrize("installed", ["from a wheel", "as the tests are"])
def test_a_dry_run_from_an_empty_folder(installed: str, wheel: Path, tmp_path: Path) -> None:
    """The default recipe is found wherever one stands, with nothing of the repository on the path."""
    environment = dict(os.environ)
    if installed == "from a wheel":
        site = tmp_path / "site"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        environment["PYTHONPATH"] = str(site)
    empty = tmp_path / "empty"
    empty.mkdir()
    code = "import sys, llama_scale; print(llama_scale.__file__, file=sys.stderr); "
    code += "from llama_scale.cli import main; main(['sweep', '--dry-run'], prog_name='llama-scale')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (str(tmp_path) in done.stderr) is (installed == "from a wheel")
    assert "FLOPs" in done.stdout


def test_constraints_name_every_direct_dependency() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    pinned = dict(
        line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line
    )
    for requirement in wanted:
        name = requirement.split(">")[0].split("[")[0].strip()
        assert name in pinned
    assert pinned["torch"] == "2.13.0"
    assert not [line for line in pinned.values() if "+" in line or "/" in line]
