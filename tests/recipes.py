"""Small real recipes and texts for tests: models that train in a second on Python's own sources."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_scale.runs import RunConfig
    from llama_scale.training.data import TokenFiles

TINY = """
purpose = "A sweep that a test can afford"
[data]
source = {source!r}
vocabulary = 300
evaluation_tokens = 2048
[shape]
layers = 1
head_size = 8
hidden_ratio = 2.0
context = 32
[training]
learning_rate_times_width = 0.128
sequences_per_step = 2
warmup_steps = 10
[design]
widths = [8, 16]
budgets_flops = ["1.2e9", "1.8e9"]
holdouts = [{{ width = 16, budget_flops = "3.6e9" }}]
"""


def write_text(folder: Path) -> Path:
    """About 700 kB of real text: modules of Python's standard library."""
    folder.mkdir(parents=True, exist_ok=True)
    library = Path(sysconfig.get_path("stdlib"))
    for name in (
        "argparse.py",
        "ast.py",
        "datetime.py",
        "decimal.py",
        "doctest.py",
        "inspect.py",
        "typing.py",
    ):
        source = library / name
        (folder / name).write_bytes(source.read_bytes())
    return folder


def write_recipe(folder: Path, name: str = "tiny") -> Path:
    """A recipe file over `write_text`'s text, both in `folder`."""
    path = folder / f"{name}.toml"
    path.write_text(TINY.format(source=str(write_text(folder / "text"))))
    return path


def prepared_sweep(folder: Path) -> tuple[TokenFiles, tuple[RunConfig, ...]]:
    """The tokens of that recipe in `folder`/runs; its runs: trunk, branches, trunk, branches, hold-out."""
    from llama_scale.config import load_toml
    from llama_scale.sweeps import SweepSpec, expand
    from llama_scale.training.corpus import read_corpus
    from llama_scale.training.preparing import prepare

    spec, store = load_toml(write_recipe(folder), SweepSpec), folder / "runs"
    corpus = read_corpus(spec.data, store)
    return prepare(corpus, spec.data, store), expand("tiny", spec, corpus.corpus).runs
