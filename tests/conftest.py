"""What tests share: reference data that lie beside the repository, and settings that stay out of the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llama_scale.planning import Plan
    from llama_scale.training.kernels import Library

REPOSITORY = Path(__file__).resolve().parent.parent

# Hours of a FLOP are 1e-18: within the usual 1e-12, any two of them would be equal.
type(pytest.approx(1.0)).DEFAULT_ABSOLUTE_TOLERANCE = 0.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def shared_data() -> Path:
    """Reference data that are not ours to ship; tests that need them are skipped elsewhere."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the reference data ../shared/data are not here")
    return folder


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No settings, colours or widths of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith(("LLAMA_SCALE_", "_LLAMA_SCALE_"))]:
        monkeypatch.delenv(name)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))


@pytest.fixture(scope="session")
def kernels() -> Library:
    """The C kernels; tests that need them are skipped where there is no compiler."""
    from llama_scale.training.kernels import Absent, library

    found = library()
    if isinstance(found, Absent):
        pytest.skip(found.reason)
    return found


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The kernels are looked for anew in the test, and again after it."""
    from llama_scale.training.kernels import library

    library.cache_clear()
    yield
    library.cache_clear()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium with a fresh profile."""
    from chromium import started

    yield from started(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """The plans of which pages are tested in a browser."""
    from chromium import QUESTIONS

    from llama_scale import plan

    return {name: plan(**words) for name, words in QUESTIONS.items()}


@pytest.fixture(scope="module")
def pages(plans: dict[str, Plan], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The addresses of their pages."""
    from llama_scale.report import write_report

    folder = tmp_path_factory.mktemp("pages")
    return {name: write_report(made, folder / f"{name}.html").as_uri() for name, made in plans.items()}
