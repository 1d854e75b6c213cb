"""The text: checked against what was installed, split without leaks, refused with a reason."""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

import pytest
from recipes import write_text

from llama_scale.errors import InputError
from llama_scale.training import corpus as corpus_module
from llama_scale.training.corpus import VALIDATION_PACKAGES, read_corpus


@pytest.fixture(scope="module")
def builtin() -> corpus_module.Corpus:
    return read_corpus()


def test_the_builtin_corpus_is_large_split_and_without_repeats(builtin: corpus_module.Corpus) -> None:
    train = [d.sha256 for d in builtin.train]
    validation = [d.sha256 for d in builtin.validation]
    assert sum(len(d.text) for d in builtin.train) > 50e6
    assert len({*train, *validation}) == len(train) + len(validation)
    for package in VALIDATION_PACKAGES:
        assert any(d.name.startswith(f"{package}/") for d in builtin.validation), package
        assert not any(d.name.startswith(f"{package}/") for d in builtin.train), package


def test_the_builtin_corpus_leaves_generated_files_out(builtin: corpus_module.Corpus) -> None:
    names = {d.name for d in (*builtin.train, *builtin.validation)}
    assert "torch/version.py" not in names
    assert "numpy/__config__.py" not in names
    assert "torch/nn/functional.py" in names


def test_reading_twice_gives_the_same_corpus_and_another_seed_another_order(
    builtin: corpus_module.Corpus,
) -> None:
    assert read_corpus() == builtin
    other = read_corpus(seed=1)
    assert other.sha256 != builtin.sha256
    assert {d.sha256 for d in other.train} == {d.sha256 for d in builtin.train}


def install(site: Path, *, record: bool = True, tampered: bool = False) -> None:
    """A real installed package, as pip would lay it out."""
    (site / "nine").mkdir(parents=True)
    data = b"print('nine')\n"
    (site / "nine" / "__init__.py").write_bytes(data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    info = site / "nine-9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nine\nVersion: 9.0\n")
    if record:
        (info / "RECORD").write_text(
            f"nine/__init__.py,sha256={digest},{len(data)}\nnine-9.0.dist-info/RECORD,,\n"
        )
    if tampered:
        (site / "nine" / "__init__.py").write_bytes(data + b"# edited\n")


@pytest.mark.parametrize(
    ("how", "message", "hint"),
    [
        ({"tampered": True}, "its hash differs from RECORD", "force-reinstall"),
        ({"record": False}, "without a RECORD", "virtual environment"),
    ],
)
def test_a_package_that_cannot_be_checked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool], message: str, hint: str
) -> None:
    install(tmp_path, **how)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(corpus_module, "BUILTIN_PACKAGES", ("nine",))
    with pytest.raises(InputError, match=message) as refusal:
        read_corpus()
    assert hint in refusal.value.hint
    assert "nine" not in sys.modules


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "BUILTIN_PACKAGES", ("no-such-package",))
    with pytest.raises(InputError, match="no-such-package, which is not installed"):
        read_corpus()


def test_a_folder_of_text_takes_the_corpus_place(tmp_path: Path) -> None:
    corpus = read_corpus(str(write_text(tmp_path / "text")))
    assert corpus.train and corpus.validation
    assert not {d.sha256 for d in corpus.train} & {d.sha256 for d in corpus.validation}


def test_hidden_files_are_no_text(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "text")
    plain = read_corpus(str(folder))
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_bytes(b"\xff\xfe")
    (folder / ".DS_Store").write_bytes(b"\xff")
    assert read_corpus(str(folder)) == plain


def test_a_file_is_cut_at_separators(tmp_path: Path) -> None:
    file = tmp_path / "many.txt"
    file.write_text("<|endofdoc|>\n".join(f"document {n}\n" for n in range(50)))
    corpus = read_corpus(str(file))
    assert len(corpus.train) + len(corpus.validation) == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text"),
        (b"  \n ", "holds no text"),
        (b"caf\xe9 au lait", "is not UTF-8: byte 3"),
        (b"one short document", "one single document"),
    ],
)
def test_text_that_cannot_serve_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_corpus(str(file))


def test_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_corpus(str(tmp_path / "nowhere"))
