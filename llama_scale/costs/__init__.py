"""What training and serving cost, in FLOPs, GPU-hours and dollars, and every assumption behind it.

`economics` turns FLOPs into hours and dollars, and holds what every cost shares: what is rented and at what
price, what is demanded, the assumptions and their age.
"""

from llama_scale.costs.economics import (
    DEFAULT_ACCELERATOR,
    DEFAULT_DECODE_MFU,
    DEFAULT_GOODPUT,
    DEFAULT_INPUT_SHARE,
    DEFAULT_MFU,
    DEFAULT_PREFILL_MFU,
    DEFAULT_UTILISATION,
    Assumption,
    CostUnit,
    Default,
    Demand,
    Economics,
    Lifetime,
    Rates,
    Rental,
    Serving,
    Training,
    missing_price,
    rental,
)

__all__ = [
    "DEFAULT_ACCELERATOR",
    "DEFAULT_DECODE_MFU",
    "DEFAULT_GOODPUT",
    "DEFAULT_INPUT_SHARE",
    "DEFAULT_MFU",
    "DEFAULT_PREFILL_MFU",
    "DEFAULT_UTILISATION",
    "Assumption",
    "CostUnit",
    "Default",
    "Demand",
    "Economics",
    "Lifetime",
    "Rates",
    "Rental",
    "Serving",
    "Training",
    "missing_price",
    "rental",
]
