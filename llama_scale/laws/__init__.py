"""Scaling laws, and the Fit that carries one between stages: numpy alone, so that a plan starts quickly.

`forms` is the arithmetic of a law, `repeated` that of data seen again, `fits` a law with its
uncertainty, `files` a Fit on disk, `library` the published laws and the ways in which a user names one.
"""

from llama_scale.laws.files import fit_to_json, read_fit, write_fit
from llama_scale.laws.fits import (
    ACCOUNTINGS,
    DEFAULT_LEVEL,
    Fit,
    FlopsAccounting,
    Optimum,
    Prediction,
    Range,
    Support,
    central_range,
)
from llama_scale.laws.forms import FORMS, Allocation, FormName, Gradient, Numbers, ScalingLaw
from llama_scale.laws.library import (
    DEFAULT_LAW,
    parse_law_line,
    published,
    published_names,
    resolve_law,
)
from llama_scale.laws.repeated import MUENNIGHOFF_REPETITION, RepeatedDataLaw, Repetition

__all__ = [
    "ACCOUNTINGS",
    "DEFAULT_LAW",
    "DEFAULT_LEVEL",
    "FORMS",
    "MUENNIGHOFF_REPETITION",
    "Allocation",
    "Fit",
    "FlopsAccounting",
    "FormName",
    "Gradient",
    "Numbers",
    "Optimum",
    "Prediction",
    "Range",
    "RepeatedDataLaw",
    "Repetition",
    "ScalingLaw",
    "Support",
    "central_range",
    "fit_to_json",
    "parse_law_line",
    "published",
    "published_names",
    "read_fit",
    "resolve_law",
    "write_fit",
]
