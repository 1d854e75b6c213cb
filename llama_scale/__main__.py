"""`python -m llama_scale` is the command `llama-scale`."""

from llama_scale.cli import main

main()
