"""`llama-scale export`: a trained model for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from llama_scale.cli import options
from llama_scale.cli.options import complete_run_ids, one_of
from llama_scale.cli.output import current_output
from llama_scale.cli.settings import OwnOption


@options.command(
    name="export",
    examples=(
        "llama-scale export 0123456789abcdef",
        "llama-scale export 0123456789abcdef --output models/my-llama",
    ),
)
@click.argument("run", shell_complete=complete_run_ids)
@click.option(
    "--format",
    "form",
    cls=OwnOption,
    type=one_of(["hf"]),
    default="hf",
    help="hf: config.json, safetensors and tokenizer, as transformers reads them.",
)
@click.option(
    "--output",
    cls=OwnOption,
    type=options.PathType(file_okay=False, path_type=Path),
    help="The new folder. [default: exports/<run> in the store]",
)
@options.store_option
@options.json_option
def command(run: str, form: str, output: Path | None, store: Path, as_json: bool) -> None:
    """How do I load a trained model elsewhere?

    Writes a folder that AutoModelForCausalLM and AutoTokenizer of transformers load, with equal logits and
    token ids. A run that has not ended gives its newest checkpoint.
    """
    from llama_scale.runs import find_run
    from llama_scale.training.data import data_folder, open_tokens
    from llama_scale.training.exchange import hf_config, shape_line, write_hf
    from llama_scale.training.weights import load_weights

    source = find_run(store, run)
    folder = output or store / "exports" / source.run
    tokenizer = open_tokens(data_folder(store, source.config.data, source.config.corpus)).tokenizer
    model, step = load_weights(source)
    write_hf(folder, model, tokenizer)
    kind = hf_config(model.config)["architectures"][0]
    where = "the end of its schedule" if step is None else f"step {step:,} of an unfinished schedule"
    current_output().result(
        {"run": source.run, "format": form, "folder": str(folder), "architecture": kind, "step": step},
        [
            f"Wrote {folder}: {kind}, {shape_line(model.config)}; weights of {where}.",
            "",
            f"next  AutoModelForCausalLM.from_pretrained({str(folder)!r})",
        ],
    )
