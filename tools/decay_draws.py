"""Make the draws of Muennighoff et al.'s two decays: llama_scale/data/draws/muennighoff-2023-decays.csv.

    python tools/decay_draws.py ../shared/data/datablations.csv

The input is the table of the runs that Muennighoff et al. 2023 released (github huggingface/datablations,
utils/parametric_fit.ipynb, cells 1 and 25; Apache-2.0) with a column that marks the 182 of the published fit.
Only our own fits of resamples of it are shipped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from llama_scale.fitting import Settings, fit_repeated

DRAWS = 1000
SEED = 2024
TARGET = Path(__file__).parents[1] / "llama_scale" / "data" / "draws" / "muennighoff-2023-decays.csv"
HEADER = """\
# Bootstrap draws of R_D* and R_N* of Muennighoff et al. 2023 (arXiv 2305.16264): 1,000 resamples of the 182
# runs of their fit, with replacement, each at the lowest minimum over decays of .1 to 10,000 (sum of Huber
# losses on log loss, delta 1e-3), the law muennighoff-2023 of data seen once held fixed. A decay of 10,000 is
# none. They spread over several minima: the published 15.39 and 5.31 is one, 95.4 and 1.71 the lowest. By
# tools/decay_draws.py, seed 2024. Our own numbers, from runs of huggingface/datablations (Apache-2.0).
"""


def main(source: str) -> None:
    """Fit, draw, write."""
    fit = fit_repeated(
        source,
        where=["in_published_fit = 1"],
        base_law="muennighoff-2023",
        settings=Settings(draws=DRAWS, seed=SEED, delta=1e-3),
    )
    assert fit.repetition_draws is not None
    columns = (fit.repetition_draws.tokens_decay, fit.repetition_draws.parameters_decay)
    rows = [f"{first:.5g},{second:.5g}" for first, second in zip(*map(np.ravel, columns), strict=True)]
    TARGET.write_text(HEADER + "\n".join(["tokens_decay,parameters_decay", *rows]) + "\n", encoding="utf-8")
    print(fit.evidence["intervals"])


if __name__ == "__main__":
    main(sys.argv[1])
