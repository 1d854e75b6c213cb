"""How far the proportions of a shape are from the LLaMA family's, which laws take for granted."""

from __future__ import annotations

import math

from llama_scale.architecture import ModelConfig, aspect_ratio

ILL_SHAPED = 2.0  # times as wide for its layers as the family's, or as narrow: laws know no such models
SOURCE = "Kaplan et al. 2020, arXiv 2001.08361, figure 5"


def stretch_of(shape: ModelConfig) -> float:
    """How many times as wide for its layers a shape is as the family's of its size.

    >>> from llama_scale.architecture import LLAMA_7B
    >>> round(stretch_of(LLAMA_7B), 3)
    1.0
    """
    return shape.width / shape.layers / aspect_ratio(shape.parameters.total)


def is_ill_shaped(shape: ModelConfig) -> bool:
    """Whether a shape is far wider for its layers than the family, or far narrower."""
    return abs(math.log(stretch_of(shape))) > math.log(ILL_SHAPED)
