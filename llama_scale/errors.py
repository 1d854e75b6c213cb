"""The errors that users are meant to see: what went wrong, and how to fix it."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as short_repr
from textwrap import shorten
from types import MappingProxyType
from typing import Any


class LlamaScaleError(Exception):
    """An expected failure, printed as one line of what and one line of how to fix it.

    `exit_code` is what the command line returns: 1 for work that failed or cannot be done. `details` are
    plain values that `--json` prints beside the message, for errors that know more.
    """

    exit_code = 1
    details: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(LlamaScaleError):
    """Bad input from the command line, a file or the environment (exit code 2)."""

    exit_code = 2


class InfeasibleError(LlamaScaleError):
    """A question that has an answer in principle, but none under its constraints (exit code 1)."""


class UnidentifiedError(LlamaScaleError):
    """Data that cannot identify what was asked of them, so no estimate is given (exit code 1)."""


class StoreError(LlamaScaleError):
    """A run folder, checkpoint or corpus that cannot be read or written (exit code 1)."""


class Interrupted(LlamaScaleError):
    """Work that somebody stopped (exit code 130)."""

    exit_code = 130


def shown(value: object) -> str:
    """What Python handed on in place of a word or a number, in one short line: arrays have many."""
    return shorten(short_repr(value), 100, placeholder=" ...")
