"""`python -m llama_scale` is the command `llama-scale`, for launchers that know no PATH."""

from llama_scale.cli import main

main(prog_name="llama-scale")
