"""The third stage: from a law and a demand to the model that should be trained.

`plan` reads a question (`request`), solves it on a continuum of sizes (`optimum`), makes the answer
buildable and compares it (`answer`), carries the law's draws through (`uncertainty`), and says it in
words (`words`) or as JSON (`document`). What cannot be done is refused in `feasibility`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from llama_scale.errors import InputError
from llama_scale.planning.answer import answer
from llama_scale.planning.grids import BestSizes, best_sizes
from llama_scale.planning.options import PlanOptions, refuse_unknown
from llama_scale.planning.request import read_request
from llama_scale.planning.values import Plan

if TYPE_CHECKING:
    from llama_scale.planning.comparison import Comparison

ONLY_PLANNED = (  # words that say what to train, or how, not what models that exist cost
    *("budget", "target_loss", "target_score", "match", "against", "max_parameters", "accelerators"),
    *("deadline", "unique_tokens", "retrain_every", "request_rate", "recompute"),
    *("pue", "carbon", "vocabulary"),
)

__all__ = ["BestSizes", "Plan", "PlanOptions", "best_sizes", "compare", "plan"]


def plan(**options: Unpack[PlanOptions]) -> Plan:
    """The model to train for what it will serve; the words are those of the command.

    Raises InputError for words that cannot be meant, InfeasibleError where no model does what is asked.

    >>> plan(serve_tokens="1e12", budget="1e24", law="hoffmann-2022-sardana").sentence  # doctest: +ELLIPSIS
    'Train 4...B parameters on 3...T tokens...'
    """
    refuse_unknown(options)
    if options.get("serve_tokens") is None and options.get("requests") is None:
        raise InputError(
            "how many tokens will the model serve?",
            hint="give its lifetime demand, such as --serve-tokens 1e12, or 0 for training alone",
        )
    return answer(read_request(options))


def compare(
    *models: str | Sequence[str], buy: str | Sequence[str] = (), **options: Unpack[PlanOptions]
) -> Comparison:
    """Models side by side, named or as TOML files: their expected loss, costs and break-evens.

    Names may come in lists. Those to `buy` come off the shelf, trained at no cost of yours. The other words
    are those of `plan`.
    Raises InputError for words or names that cannot be meant.

    >>> compare("llama-13b", "gpt-3-175b", serve_tokens="1e12").frontier[0].name
    'llama-13b'
    """
    from llama_scale.planning.comparison import DEFAULT_DEMAND, compare_models

    named, bought = _names(models), _names((buy,))
    for name in ONLY_PLANNED:
        if options.get(name) is not None:
            raise InputError(
                f"compare takes models and prices, no {name.replace('_', ' ')}",
                hint="ask llama-scale plan for the best model, or leave it out",
            )
    words: PlanOptions = {**options}
    is_default = words.get("serve_tokens") is None and words.get("requests") is None
    if is_default:
        words["serve_tokens"] = DEFAULT_DEMAND
    found = compare_models(read_request(words, default_budget=None), named, bought)
    return replace(found, default_demand=is_default)


def _names(given: Sequence[str | Sequence[str]]) -> tuple[str, ...]:
    """Names one by one, whether they came alone or in lists."""
    return tuple(name for part in given for name in ((part,) if isinstance(part, str) else part))
