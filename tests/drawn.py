"""A fit with draws of our own making, for tests of planning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llama_scale.laws import Fit, ScalingLaw, published


def drawn_fit(draws: int = 200, **changes: Any) -> Fit:
    """The default law with draws about it, not as wide as its standard errors."""
    z = np.random.default_rng(0).normal(size=(3, draws))
    law = ScalingLaw(
        E=1.8172 + 0.02 * z[0],
        A=482.01 * np.exp(0.2 * z[1]),
        B=2085.43 * np.exp(0.3 * z[2]),
        alpha=0.3478 + 0.01 * z[1],
        beta=0.3658 + 0.0135 * z[2],
    )
    return replace(published(), **{"name": "drawn", "draws": law, "noise": 0.003, **changes})
