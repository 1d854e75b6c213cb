"""From a sweep you can run tonight to the model you should train, what it will cost, and how sure we are.

Verbs do what the commands do, each imported when first used:

>>> from llama_scale import sweep, fit, plan, compare  # doctest: +SKIP

`docs/architecture.md` says where everything else lives.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llama_scale.version import __version__

if TYPE_CHECKING:
    from llama_scale.fitting import fit as fit
    from llama_scale.launch import sweep as sweep
    from llama_scale.planning import compare as compare
    from llama_scale.planning import plan as plan

_VERBS = {
    "compare": "llama_scale.planning",
    "fit": "llama_scale.fitting",
    "plan": "llama_scale.planning",
    "sweep": "llama_scale.launch",
}
__all__ = ["__version__", "compare", "fit", "plan", "sweep"]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(import_module(_VERBS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_VERBS]
