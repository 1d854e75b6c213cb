"""Scaling laws, and the Fit that carries one between stages: numpy alone, so that a plan starts quickly.

`forms` is the arithmetic of a law, `repeated` that of data seen again, `downstream` turns losses into
scores, `fits` is a law with its uncertainty, `files` a Fit on disk, `library` the published laws and the
ways in which a user names one.
"""

from llama_scale.laws.allocations import PowerAllocation, published_allocation, published_allocations
from llama_scale.laws.downstream import Downstream, ScorePrediction, Sigmoid
from llama_scale.laws.files import fit_to_json, is_fit, read_fit, write_fit
from llama_scale.laws.fits import (
    ACCOUNTINGS,
    Fit,
    FlopsAccounting,
    Prediction,
    Support,
)
from llama_scale.laws.forms import FORMS, FormName, Numbers, ScalingLaw
from llama_scale.laws.library import (
    DEFAULT_LAW,
    parse_law_line,
    published,
    published_name,
    published_names,
    resolve_law,
)
from llama_scale.laws.repeated import MUENNIGHOFF_REPETITION, RepeatedDataLaw, Repetition
from llama_scale.laws.shipped import published_decays
from llama_scale.laws.spread import DEFAULT_LEVEL, LEAST_DRAWS, Range, central_range, least_draws, median

__all__ = [
    "ACCOUNTINGS",
    "DEFAULT_LAW",
    "DEFAULT_LEVEL",
    "FORMS",
    "LEAST_DRAWS",
    "MUENNIGHOFF_REPETITION",
    "Downstream",
    "Fit",
    "FlopsAccounting",
    "FormName",
    "Numbers",
    "PowerAllocation",
    "Prediction",
    "Range",
    "RepeatedDataLaw",
    "Repetition",
    "ScalingLaw",
    "ScorePrediction",
    "Sigmoid",
    "Support",
    "central_range",
    "fit_to_json",
    "is_fit",
    "least_draws",
    "median",
    "parse_law_line",
    "published",
    "published_allocation",
    "published_allocations",
    "published_decays",
    "published_name",
    "published_names",
    "read_fit",
    "resolve_law",
    "write_fit",
]
