"""Pages of plans in headless Chromium: the questions that they answer, the browser, how a page is opened."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_scale.planning import PlanOptions

QUESTIONS: dict[str, PlanOptions] = {
    "roofline": {"serve_tokens": "10T", "budget": "$5M"},
    "flops": {"serve_tokens": "1e12"},
    "flops-on-one": {"serve_tokens": "1e12", "serve_accelerators": 1},
    "exact-loss": {"serve_tokens": "1e12", "target_loss": 2.0, "cost_in": "usd", "flops": "exact"},
    "non-embedding": {
        "serve_tokens": "1e11", "budget": "1e21", "law": "kaplan-2020", "flops": "exact", "samples": 3,
        "max_parameters": "300M",
    },
    "few-data-int4": {
        "serve_tokens": "1e12", "budget": "1M GPU-hours", "unique_tokens": "300B", "serve_precision": "int4",
        "quantisation_penalty": True,
    },
    "latency-months": {
        "requests": "1e9", "samples": 2, "months": 24, "retrain_every": 12, "discount": "10%/year",
        "budget": "$9M", "time_per_output_token": "60ms", "serve_accelerator": "l40s",
    },
}  # fmt: skip


def started(profile: Path) -> Iterator[Any]:
    """Headless Chromium with a profile of its own; tests are skipped where there is none."""
    if not (binary := shutil.which("chromium")) or not (driver := shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", f"user-data-dir={profile}"),
    ):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    window.set_script_timeout(120)
    yield window
    window.quit()


def opened(browser: Any, address: str, width: int = 1400) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(address)
