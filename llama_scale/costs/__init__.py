"""What training and serving cost, in FLOPs, GPU-hours and dollars, and every assumption behind it.

`economics` is what is rented, at what price and MFU; `demand` what is served; `lifetime` puts them together
into FLOPs, hours and dollars; `serving` is the roofline.
"""

from llama_scale.costs.demand import Demand, Spread
from llama_scale.costs.economics import (
    DEFAULT_ACCELERATOR,
    DEFAULT_DECODE_MFU,
    DEFAULT_INPUT_SHARE,
    DEFAULT_PREFILL_MFU,
    DEFAULT_UTILISATION,
    Assumption,
    CostUnit,
    Default,
    Formula,
    Rental,
    Serving,
    Training,
    missing_price,
    rental,
)
from llama_scale.costs.lifetime import Economics, Lifetime

__all__ = [
    "DEFAULT_ACCELERATOR",
    "DEFAULT_DECODE_MFU",
    "DEFAULT_INPUT_SHARE",
    "DEFAULT_PREFILL_MFU",
    "DEFAULT_UTILISATION",
    "Assumption",
    "CostUnit",
    "Default",
    "Demand",
    "Economics",
    "Formula",
    "Lifetime",
    "Rental",
    "Serving",
    "Spread",
    "Training",
    "missing_price",
    "rental",
]
