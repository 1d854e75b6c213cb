"""The text: checked against what was installed, split without leaks, refused with a reason."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from recipes import write_text

from llama_scale.config import structure
from llama_scale.errors import InputError, StoreError
from llama_scale.runs import BUILTIN, DataConfig, SourceConfig, text_problems
from llama_scale.training import builtin as builtin_module
from llama_scale.training.builtin import VALIDATION_PACKAGES, builtin_listing
from llama_scale.training.corpus import Corpus, Text, fingerprint, read_corpus
from llama_scale.training.data import find_prepared
from llama_scale.training.documents import Document
from llama_scale.training.preparing import check_text, find_text, prepare


def read(store: Path, *sources: SourceConfig | str | Path) -> Corpus:
    """The corpus of these sources."""
    made = [s if isinstance(s, SourceConfig) else SourceConfig(source=str(s)) for s in sources]
    return read_corpus(DataConfig(sources=tuple(made)), store)


def documents(text: Text, part: str) -> list[Document]:
    """The documents of one part, in the part's own order."""
    places = {"train": text.train, "validation": text.validation}[part]
    found = dict(text.documents(places))
    return [found[place] for place in places.tolist()]


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return read_corpus(DataConfig(), tmp_path_factory.getbasetemp()).texts[0]


def test_the_builtin_corpus_is_large_split_and_without_repeats(builtin: Text) -> None:
    train, validation = documents(builtin, "train"), documents(builtin, "validation")
    assert sum(document.size for document in train) > 50e6
    assert len({d.digest for d in (*train, *validation)}) == len(train) + len(validation)
    for package in VALIDATION_PACKAGES:
        assert any(d.name.startswith(f"{package}/") for d in validation), package
        assert not any(d.name.startswith(f"{package}/") for d in train), package


def test_the_builtin_corpus_leaves_generated_files_out(builtin: Text) -> None:
    names = {d.name for part in ("train", "validation") for d in documents(builtin, part)}
    assert "torch/version.py" not in names
    assert "numpy/__config__.py" not in names
    assert "torch/nn/functional.py" in names


def test_reading_twice_gives_the_same_corpus_and_another_seed_another_order(
    builtin: Text, tmp_path: Path
) -> None:
    assert read_corpus(DataConfig(), tmp_path).corpus == builtin.sha256
    other = read_corpus(DataConfig(shuffle_seed=1), tmp_path).texts[0]
    assert other.sha256 != builtin.sha256
    assert sorted(other.train.tolist()) == sorted(builtin.train.tolist())


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
    monkeypatch.setattr(builtin_module, "BUILTIN_PACKAGES", ("nine",))
    with pytest.raises(InputError, match=message) as refusal:
        read_corpus(DataConfig(), tmp_path)
    assert hint in refusal.value.hint
    assert "nine" not in sys.modules


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin_module, "BUILTIN_PACKAGES", ("no-such-package",))
    with pytest.raises(InputError, match="no-such-package, which is not installed"):
        read_corpus(DataConfig(), tmp_path)


def test_a_folder_of_text_takes_the_corpus_place(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "text")
    (text,) = read_corpus(DataConfig(source=str(folder)), tmp_path).texts
    train, validation = documents(text, "train"), documents(text, "validation")
    assert train and validation
    assert not {d.digest for d in train} & {d.digest for d in validation}
    assert {d.name.split("#")[0] for d in (*train, *validation)} == {f.name for f in folder.iterdir()}


def test_one_line_of_toml_takes_the_corpus_place(tmp_path: Path) -> None:
    tables = tomllib.loads(f"source = {str(tmp_path)!r}")
    config = structure(tables, DataConfig, source="recipe.toml")
    assert [source.source for source in config.mixture] == [str(tmp_path)]
    assert config.block_counts == (1000,)


def test_hidden_files_are_no_text(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "text")
    plain = read(tmp_path, folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_bytes(b"\xff\xfe")
    (folder / ".DS_Store").write_bytes(b"\xff")
    assert read(tmp_path, folder).corpus == plain.corpus


def test_a_store_that_lies_in_its_source_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where data.source is "." and the store its default, ./runs."""
    monkeypatch.chdir(write_text(tmp_path / "text"))
    config, store = DataConfig(source=".", tokenizer="bytes", vocabulary=257), Path("runs")
    files = prepare(find_text(config, store), config, store)
    assert read_corpus(config, store).corpus == files.corpus
    again = find_prepared(config, store)
    assert again is not None and again.corpus == files.corpus


def test_a_limit_that_leaves_one_document_is_named_as_the_cause(tmp_path: Path) -> None:
    file = tmp_path / "two.jsonl"
    file.write_text('{"text": "once"}\n{"text": "upon"}\n')
    with pytest.raises(InputError, match="one single document") as refusal:
        read(tmp_path, SourceConfig(source=str(file), limit_bytes=1))
    assert "larger limit_bytes" in refusal.value.hint


@pytest.mark.parametrize("setting", [{"subset": "en"}, {"split": "test"}, {"revision": "v1"}])
def test_what_only_the_hub_has_is_refused_elsewhere(setting: dict[str, Any]) -> None:
    def told(source: str) -> list[str]:
        config = DataConfig(sources=(SourceConfig(source=source, **setting),))
        return [problem.message for problem in text_problems(config, 32)]

    assert told("hub:allenai/c4") == []
    assert told("allenai/c4") == ["c4 has a subset, split or revision, which only datasets of the hub have"]


def test_a_home_that_nobody_has_holds_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no ~no such user/text"):
        read(tmp_path, "~no such user/text")


def test_what_stands_in_the_way_of_a_prepared_text_is_told_before_it_is_made(tmp_path: Path) -> None:
    source, store = write_text(tmp_path / "text"), tmp_path / "store"
    config = DataConfig(source=str(source), tokenizer="bytes", vocabulary=257)
    folder = prepare(find_text(config, store), config, store).folder
    (folder / "manifest.json").unlink()
    text = find_text(config, store)
    assert isinstance(text, Corpus)
    shutil.rmtree(source)  # whoever read it again would not find it
    with pytest.raises(StoreError, match="cannot be used"):
        prepare(text, config, store)


def test_the_built_in_corpus_has_a_limit_too(tmp_path: Path) -> None:
    (text,) = read(tmp_path, SourceConfig(source=BUILTIN, limit_bytes=12_000_000)).texts
    assert 12_000_000 <= int(text.catalogue.sizes.sum()) < 13_000_000
    with pytest.raises(InputError, match="first 1,000 bytes of the built-in corpus hold nothing"):
        read(tmp_path, SourceConfig(source=BUILTIN, limit_bytes=1000))


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def some_texts(count: int, seed: int = 0) -> list[str]:
    """Documents of words that a generator draws, no two the same."""
    words = ["law", "loss", "token", "width", "budget", "llama", "serve", "train"]
    rng = random.Random(seed)
    return [f"{n} " + " ".join(rng.choices(words, k=rng.randrange(20, 60))) for n in range(count)]


def test_documents_that_occur_twice_are_kept_once_and_on_one_side(tmp_path: Path) -> None:
    texts = some_texts(300)
    once = read(tmp_path, write_lines(tmp_path / "once.jsonl", texts)).texts[0]
    twice = read(tmp_path, write_lines(tmp_path / "twice.jsonl", [*texts, *texts[::-1]])).texts[0]
    assert len(twice.train) + len(twice.validation) == len(texts)
    assert {d.text for d in documents(twice, "train")} == {d.text for d in documents(once, "train")}
    assert twice.sha256 == once.sha256


def test_nothing_that_one_source_holds_out_is_learnt_from_another(tmp_path: Path) -> None:
    """A source of few documents holds out one that the other's own rule would learn from."""
    texts = some_texts(400)
    few = [text for text in texts if hashlib.sha256(text.encode()).digest()[0] > 128][:3]
    corpus = read(
        tmp_path, write_lines(tmp_path / "all.jsonl", texts), write_lines(tmp_path / "few.jsonl", few)
    )
    held_out = {d.digest for text in corpus.texts for d in documents(text, "validation")}
    learnt = {d.digest for text in corpus.texts for d in documents(text, "train")}
    assert held_out & {hashlib.sha256(text.encode()).digest() for text in few}
    assert not held_out & learnt


def test_the_share_held_out_is_about_two_percent(tmp_path: Path) -> None:
    (text,) = read(tmp_path, write_lines(tmp_path / "many.jsonl", some_texts(5000))).texts
    assert 60 <= len(text.validation) <= 145  # 100 expected, four and a half standard deviations


def test_another_mixture_of_the_same_texts_is_another_corpus(tmp_path: Path) -> None:
    one, other = (write_lines(tmp_path / f"{n}.jsonl", some_texts(100, n)) for n in range(2))

    def corpus(weight: float) -> str:
        return read(tmp_path, one, SourceConfig(source=str(other), weight=weight)).corpus

    assert corpus(1) == corpus(1) != corpus(2)


def test_reading_stops_at_a_limit(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "many.jsonl", some_texts(500))
    (text,) = read(tmp_path, SourceConfig(source=str(file), limit_bytes=20_000)).texts
    assert 20_000 <= text.catalogue.sizes.sum() < 20_000 + text.catalogue.sizes.max()


def test_text_that_changes_between_two_readings_is_refused(tmp_path: Path) -> None:
    texts = some_texts(100)
    file = write_lines(tmp_path / "text.jsonl", texts)
    (text,) = read(tmp_path, file).texts
    for changed in (texts[:50], [*texts[:-1], "another"], texts[::-1]):
        write_lines(file, changed)
        with pytest.raises(InputError, match="changed while it was read"):
            documents(text, "train")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit counts mapped files elsewhere")
@pytest.mark.parametrize("ending", [".jsonl", ".txt"])
def test_text_larger_than_memory_is_read_and_tokenised(tmp_path: Path, ending: str) -> None:
    """A process prepares a text of 80 MB with 40 MB more than it had when it began."""
    file = tmp_path / f"large{ending}"
    with file.open("w") as out:
        for n in range(400):
            text = "".join(f"line {line} of {n}\n" for line in range(12_500))
            out.write(json.dumps({"text": text}) + "\n" if ending == ".jsonl" else text)
    code = f"""
import re, resource
from pathlib import Path
from typing import Any
from llama_scale.runs import DataConfig
from llama_scale.training.preparing import check_text, find_text, prepare
store, config = Path({str(tmp_path)!r}), DataConfig(source={str(file)!r}, tokenizer="bytes", vocabulary=257)
has = int(re.search("VmData:\\\\s*(\\\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (has + 40_000_000, resource.RLIM_INFINITY))
files = prepare(find_text(config, store), config, store)
assert sum(len(s.train) + len(s.validation) for s in files.sources) > 80e6
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text"),
        (b"  \n ", "holds no text"),
        (b"caf\xe9 au lait", "bad.txt:1: not UTF-8: byte 3"),
        (b"one short document", "one single document"),
        (b"same<|endofdoc|>\nsame<|endofdoc|>\n", "one single document"),
    ],
)
def test_text_that_cannot_serve_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path, file)


def test_every_text_that_is_not_there_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no nowhere/a, no nowhere/b") as refusal:
        read(tmp_path, "nowhere/a", "builtin", "nowhere/b")
    assert "builtin" in refusal.value.hint


def test_texts_that_cannot_be_read_are_named_with_those_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "rows.jsonl").write_text('{"title": "a", "more": "b"}\n')
    with pytest.raises(InputError, match="nowhere/a") as refusal:
        read(tmp_path, tmp_path / "latin.txt", "nowhere/a", tmp_path / "rows.jsonl")
    for problem in ("3 problems", "byte 3 cannot be decoded", "cannot tell which field is the text"):
        assert problem in refusal.value.message


def test_what_reads_a_text_is_not_needed_once_its_tokens_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a store is prepared on one machine and trained on another."""
    table = pyarrow.table({"text": [f"line {number} of a text\n" * 50 for number in range(300)]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    config = DataConfig(source=str(tmp_path / "rows.parquet"), tokenizer="bytes", vocabulary=257)
    store = prepare(find_text(config, tmp_path / "store"), config, tmp_path / "store").folder.parents[1]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    check_text(config, store)
    with pytest.raises(InputError, match="needs pyarrow, which is not installed"):
        check_text(config, tmp_path / "another")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('source = "a"\n[[sources]]\nsource = "b"', "both given"),
        ('[[sources]]\nsource = "a"\nweight = 0', "the weight of a is 0"),
        (
            '[[sources]]\nsource = "a"\nweight = 1e-4\n[[sources]]\nsource = "b"',
            "a has less than one part in 1000",
        ),
        ('[[sources]]\nsource = "x/a"\n[[sources]]\nsource = "y/a"', "two of data.sources are called 'a'"),
        ('[[sources]]\nsource = "a"\nlimit_bytes = 0', "limit_bytes of a is 0"),
        ("vocabulary = 4294967297", "ids of 32 bits"),
        ('sources = [{source = "a", weight = 1e308}, {source = "b", weight = 1e300}]', "b has less"),
        ('[[sources]]\nsource = "a"\nwieght = 1', "did you mean 'weight'"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(toml: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        structure(tomllib.loads(toml), DataConfig, source="recipe.toml")
    assert message in f"{refusal.value.message} {refusal.value.hint}"


def test_the_built_in_corpus_is_known_again_by_its_files(tmp_path: Path) -> None:
    builtin = SourceConfig(source=BUILTIN)
    marks = {fingerprint(builtin, tmp_path) for _ in range(2)}
    assert len(marks) == 1
    names = [name for name, _ in builtin_listing()]
    assert len(names) == len(set(names)) > 5_000
    assert any(name.endswith("torch/nn/functional.py") for name in names)
