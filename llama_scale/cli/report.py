"""`llama-scale report`: a plan as one file that opens anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llama_scale.cli import options
from llama_scale.cli.output import current_output, entry, wrapped
from llama_scale.cli.plan_options import plan_options
from llama_scale.cli.settings import OwnOption


@options.command(
    name="report",
    examples=(
        "llama-scale report --serve-tokens 1e12",
        "llama-scale report --serve-tokens 10T --budget '$5M' -o ours.html",
        "llama-scale report --serve-tokens 2T --match llama-13b --cost-in usd --force",
    ),
)
@plan_options
@click.option(
    "--output",
    "-o",
    cls=OwnOption,
    type=options.PathType(path_type=Path),
    default="plan.html",
    metavar="FILE",
    help="The HTML file to write.",
)
@click.option("--force", is_flag=True, help="Replace the file of --output.")
@options.json_option
@options.quiet_option
def command(output: Path, force: bool, as_json: bool, quiet: bool, **words: Any) -> None:
    """How do I show a plan to somebody who has no terminal?

    Takes the words of `plan` and writes its answer as one HTML file, to mail or to print: the recommendation,
    its costs and what they rest on, with controls that ask the same question anew. The file needs no network.
    """
    from llama_scale.files import at_home
    from llama_scale.planning import plan
    from llama_scale.report import check_target, write_report

    check_target(at_home(output), overwrite=force, sources=words.values())
    answer = plan(**words)
    written = write_report(answer, output, overwrite=force)
    size = written.stat().st_size
    current_output().result(
        {"sentence": answer.sentence, "path": str(written), "bytes": size, "warnings": list(answer.warnings)},
        lambda: [
            wrapped(answer.sentence),
            "",
            *(entry("warning", text) for text in answer.warnings),
            entry("written", f"{written}, {size / 1000:.0f} kB: open it in a browser, or mail it"),
        ],
    )
