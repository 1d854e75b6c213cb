"""Make the bootstrap draws that ship with the default law: llama_scale/data/draws/besiroglu-2024.csv.

    python tools/law_draws.py ../shared/data/chinchilla.csv

The input is the table of 245 runs that Besiroglu et al. 2024 read off figure 4 of Hoffmann et al. 2022
(github epoch-research/analyzing-chinchilla, data/svg_extracted_data.csv) with a column that marks the
5 they exclude. Only our own fits of resamples of it are shipped. Prints what laws.toml quotes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from llama_scale.fitting import Settings, gather
from llama_scale.fitting.estimate import estimate

DRAWS = 1000
SEED = 2024
TARGET = Path(__file__).parents[1] / "llama_scale" / "data" / "draws" / "besiroglu-2024.csv"
HEADER = """\
# Bootstrap draws of the law besiroglu-2024: 1,000 resamples of its 240 runs, with replacement, each
# refitted to its global optimum (sum of Huber losses on log loss, delta 1e-3). Nats per token, total
# parameters. Made by tools/law_draws.py, seed 2024. Our own numbers, from runs that
# epoch-research/analyzing-chinchilla (arXiv 2404.10102) read off figure 4 of Hoffmann et al. 2022.
# They scatter about our optimum, E 1.8172, A 477.8, B 2143, alpha .3473, beta .3672, of which the
# published constants are within 3 %.
"""


def main(source: str) -> None:
    """Fit, draw, write, and print what the entry in laws.toml quotes."""
    observations = gather(source, where=["excluded_by_besiroglu = 0"])
    fit = estimate(observations, Settings(draws=DRAWS, seed=SEED, delta=1e-3, resampling="rows"))
    assert fit.draws is not None
    columns = fit.draws.constants
    rows = [
        ",".join(f"{value:.9g}" for value in row)
        for row in zip(*map(np.ravel, columns.values()), strict=True)
    ]
    TARGET.write_text(HEADER + "\n".join([",".join(columns), *rows]) + "\n", encoding="utf-8")
    print(f"noise = {fit.noise:.5f}\ninterval_factor = {fit.interval_factor:.3f}")
    print(fit.evidence["standard_errors"], fit.evidence["backtest"])


if __name__ == "__main__":
    main(sys.argv[1])
