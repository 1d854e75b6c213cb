"""Runs: text, tokens, the model, its optimiser, and the loop that loses nothing. torch lives only here."""
