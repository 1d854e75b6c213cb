"""`llama-scale data`: the text that runs train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llama_scale import quantities
from llama_scale.cli.options import (
    COUNT,
    RECIPES,
    Group,
    completing,
    json_option,
    set_option,
    store_option,
)
from llama_scale.cli.output import current_output, table

Manifest = dict[str, Any]


@click.group(
    cls=Group,
    alone="show",
    examples=("llama-scale data", "llama-scale data --json", "llama-scale data verify"),
)
def command() -> None:
    """Which text do runs train on, and is it still what it was?

    Without a COMMAND it is `llama-scale data show`, with all its options.
    """


@command.command(
    examples=(
        "llama-scale data prepare",
        "llama-scale data prepare default --set data.source=my-text/",
        "llama-scale data prepare --set data.source=hub:roneneldan/TinyStories",
    )
)
@click.argument("recipe", default="default", shell_complete=completing(RECIPES, or_files=True))
@store_option
@set_option
@json_option
def prepare(recipe: str, store: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """How many tokens does a recipe's text make, and where are they kept?

    Reads and checks the text, fetching it where it is a dataset of the Hugging Face hub, trains the
    tokenizer and writes the tokens into the store, unless they are there already. A sweep does this by
    itself.
    """
    from llama_scale.launch import default_workers
    from llama_scale.sweeps import find_recipe, load_recipe
    from llama_scale.training.preparing import find_text
    from llama_scale.training.preparing import prepare as prepare_tokens

    data = load_recipe(str(find_recipe(recipe)), overrides).data
    current_output().talk(f"Reading {', '.join(source.label for source in data.mixture)}.")
    files = prepare_tokens(find_text(data, store), data, store, threads=default_workers())
    _report([(files.folder, files.manifest)], None)


@command.command(examples=("llama-scale data show", "llama-scale data show --tokens 20M --json"))
@click.option("--tokens", type=COUNT, help="Say how often a run of so many tokens goes through each text.")
@store_option
@json_option
def show(tokens: float | None, store: Path, as_json: bool) -> None:
    """Which prepared texts does the store hold, and how are they mixed?

    `llama-scale runs show RUN` has the epochs that a run has really seen.
    """
    from llama_scale.training.data import open_tokens, prepared_folders

    _report([(folder, open_tokens(folder).manifest) for folder in prepared_folders(store)], tokens)


@command.command(
    examples=(
        "llama-scale data verify",
        "llama-scale data verify --store /scratch/runs",
        "llama-scale data verify --tokens-only --json",
    )
)
@click.option("--tokens-only", is_flag=True, help="Do not read the sources again.")
@store_option
@json_option
def verify(tokens_only: bool, store: Path, as_json: bool) -> None:
    """Is every token file, and the text it was made from, still what was prepared?

    Hashes the store's tokenizers and shards and compares them with their manifests, then reads the sources
    again. The first that differs is an error; a source that is gone is only said.
    """
    from llama_scale.training.data import open_tokens, prepared_folders, verify_tokens
    from llama_scale.training.preparing import verify_source

    checked, rows = [], []
    for folder in prepared_folders(store):
        files = open_tokens(folder)
        count = verify_tokens(files)
        source = "not read" if tokens_only else verify_source(files, store)
        checked.append({"folder": str(folder), "files": count, "source": source})
        rows.append((folder.name, count, source))
    current_output().result(
        {"verified": checked},
        lambda: [
            f"{len(checked)} prepared texts, every hash as it was.",
            *(["", table(rows, ("prepared", "files", "source"))] if rows else []),
        ],
    )


def _report(found: list[tuple[Path, Manifest]], tokens: float | None) -> None:
    value = {"data": [{"folder": str(folder), **manifest} for folder, manifest in found]}
    if tokens is not None:
        for item in value["data"]:
            item["epochs"] = {s["name"]: _epochs(s, tokens) for s in item["sources"]}
    current_output().result(value, lambda: _listing(found, tokens))


def _share(source: Manifest) -> float:
    """The share of the training tokens that a source gives."""
    from llama_scale.runs import MIXTURE_BLOCK

    return source["count"] / MIXTURE_BLOCK


def _epochs(source: Manifest, tokens: float) -> float:
    """How often a run of `tokens` goes through a source."""
    return tokens * _share(source) / source["train"]["tokens"]


def _listing(found: list[tuple[Path, Manifest]], tokens: float | None) -> list[object]:
    if not found:
        return ["No text has been prepared in this store. `llama-scale data prepare` does it."]
    return [part for folder, manifest in found for part in _described(folder, manifest, tokens)]


def _described(folder: Path, manifest: Manifest, tokens: float | None) -> list[object]:
    sources, tokenizer = manifest["sources"], manifest["tokenizer"]
    whole = sum(source["train"]["tokens"] for source in sources)
    parts = [
        (
            source["name"],
            part,
            f"{source[part]['documents']:,}",
            quantities.format_bytes(source[part]["bytes"]),
            quantities.format_count(source[part]["tokens"]),
            f"{source[part]['bytes'] / max(1, source[part]['tokens']):.2f}",
        )
        for source in sources
        for part in ("train", "validation")
    ]
    shown = [
        f"{folder}: {quantities.format_count(whole)} training tokens of "
        f"{', '.join(source['name'] for source in sources)}, {tokenizer['kind']} vocabulary of "
        f"{tokenizer['vocabulary']:,}.",
        "",
        table(parts, ("text", "part", "documents", "size", "tokens", "bytes/token")),
        *(_mixed(sources, tokens) if len(sources) > 1 or tokens is not None else []),
    ]
    versions = {name: version for source in sources for name, version in source["versions"].items()}
    if versions:
        shown += ["", f"From {', '.join(f'{name} {version}' for name, version in versions.items())}."]
    corpus = manifest["corpus"]["sha256"]
    return [*shown, f"Corpus sha256 {corpus[:12]}, tokenizer {tokenizer['sha256'][:12]}."]


def _mixed(sources: list[Manifest], tokens: float | None) -> list[object]:
    """Each text's share of the training tokens, and how soon or how often it is gone through."""
    length = quantities.format_count(tokens) if tokens is not None else ""
    rows = [
        (
            source["name"],
            f"{_share(source):.1%}",
            quantities.format_count(source["train"]["tokens"] / _share(source)),
            *([f"{_epochs(source, tokens):.2f}"] if tokens is not None else []),
        )
        for source in sources
    ]
    columns = ("text", "share", "one epoch after", *([f"epochs in {length}"] if length else []))
    return ["", table(rows, columns)]
