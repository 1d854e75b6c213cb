"""`llama-scale data`: the text that runs train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llama_scale import quantities
from llama_scale.cli.options import Group, json_option, set_option, store_option
from llama_scale.cli.output import current_output, table


@click.group(cls=Group)
def command() -> None:
    """Which text do runs train on, and is it still what it was?"""


@command.command(
    examples=(
        "llama-scale data prepare",
        "llama-scale data prepare default --set data.source=my-text/",
    )
)
@click.argument("recipe", default="default")
@store_option
@set_option
@json_option
def prepare(recipe: str, store: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """How many tokens does a recipe's text make, and where are they kept?

    Reads and checks the text, trains the tokenizer and writes the tokens into the store, unless they are
    there already. A sweep does this by itself.
    """
    from llama_scale.config import load_toml
    from llama_scale.launch import default_workers
    from llama_scale.sweeps import SweepSpec, find_recipe
    from llama_scale.training.corpus import read_corpus
    from llama_scale.training.data import prepare as prepare_tokens

    spec = load_toml(find_recipe(recipe), SweepSpec, overrides=overrides)
    corpus = read_corpus(spec.data.source, seed=spec.data.shuffle_seed)
    files = prepare_tokens(corpus, spec.data, store, threads=default_workers())
    _report([(files.folder, files.manifest)])


@command.command(examples=("llama-scale data show", "llama-scale data show --json"))
@store_option
@json_option
def show(store: Path, as_json: bool) -> None:
    """Which prepared texts does the store hold?"""
    from llama_scale.training.data import open_tokens, prepared_folders

    _report([(folder, open_tokens(folder).manifest) for folder in prepared_folders(store)])


@command.command(examples=("llama-scale data verify", "llama-scale data verify --store /scratch/runs"))
@store_option
@json_option
def verify(store: Path, as_json: bool) -> None:
    """Is every token file still what was prepared?

    Hashes the files of the store and compares them with their manifests; the first that differs is an error.
    """
    from llama_scale.training.data import open_tokens, prepared_folders, verify_tokens

    folders = prepared_folders(store)
    for folder in folders:
        verify_tokens(open_tokens(folder))
    checked = [str(folder) for folder in folders]
    current_output().result({"verified": checked}, [f"{len(checked)} prepared texts, every hash as it was."])


def _report(found: list[tuple[Path, dict[str, Any]]]) -> None:
    value = {"data": [{"folder": str(folder), **manifest} for folder, manifest in found]}
    current_output().result(value, lambda: _listing(found))


def _listing(found: list[tuple[Path, dict[str, Any]]]) -> list[object]:
    if not found:
        return ["No text has been prepared in this store. `llama-scale data prepare` does it."]
    shown: list[object] = []
    for folder, manifest in found:
        train, validation = manifest["train"], manifest["validation"]
        rows = [
            (
                part,
                f"{stated['documents']:,}",
                quantities.format_bytes(stated["bytes"]),
                quantities.format_count(stated["tokens"]),
                f"{stated['bytes'] / stated['tokens']:.2f}",
                stated["sha256"][:12],
            )
            for part, stated in (("train", train), ("validation", validation))
        ]
        tokenizer = manifest["tokenizer"]
        shown += [
            f"{folder}: {quantities.format_count(train['tokens'])} training tokens of "
            f"{manifest['corpus']['source']}, {tokenizer['kind']} vocabulary of {tokenizer['vocabulary']:,}.",
            "",
            table(rows, ("part", "documents", "text", "tokens", "bytes/token", "sha256")),
        ]
        if manifest["corpus"]["versions"]:
            versions = ", ".join(
                f"{name} {version}" for name, version in manifest["corpus"]["versions"].items()
            )
            shown += ["", f"From {versions}."]
    return shown
