"""How long the page of a plan takes to write, and to redraw after a control moves, in headless Chromium.

Run: python benchmarks/report.py [moves]. The budgets are 1 s to write and 16 ms a move on a 2-core machine.
Beside the wall time of a move stands the CPU time of the browser's main thread over the whole frame,
layout and paint included, which other work on the machine hardly moves.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llama_scale import plan
from llama_scale.report import write_report

MOVE = """
const [name, moves, done] = arguments;
const input = document.getElementById(name);
const frame = () => new Promise((go) => requestAnimationFrame(() => setTimeout(go, 0)));
(async () => {
  const times = [];
  for (let i = 0; i < moves; i++) {
    input.value = Number(input.min) + (Number(input.max) - Number(input.min)) * (((i * 37) % 60) / 60);
    const start = performance.now();
    input.dispatchEvent(new Event("input"));
    times.push(performance.now() - start);
    await frame();
  }
  done(times.sort((a, b) => a - b));
})();
"""


def chromium(profile: str) -> Any:
    """Headless Chromium with a fresh profile."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", f"user-data-dir={profile}"),
    ):
        options.add_argument(f"--{word}")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def thread_seconds(browser: Any) -> float:
    """CPU seconds that the page's main thread has worked."""
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def run(moves: int) -> None:
    """Prints one line a control."""
    answer = plan(serve_tokens="10T", budget="$5M")
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        file = write_report(answer, Path(folder) / "plan.html")
        size = file.stat().st_size / 1000
        spent = 1e3 * (time.process_time() - start)
        print(f"written in {spent:.0f} ms CPU of 1,000 ms: {size:.0f} kB of 200 kB")
        browser = chromium(str(Path(folder) / "profile"))
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        browser.set_script_timeout(600)
        browser.get(file.as_uri())
        names = "return [...document.querySelectorAll('.control:not([hidden]) input')].map((one) => one.id)"
        for name in browser.execute_script(names):
            browser.execute_async_script(MOVE, name, moves)  # the compiler has seen it all by then
            before = thread_seconds(browser)
            times = browser.execute_async_script(MOVE, name, moves)
            spent = 1e3 * (thread_seconds(browser) - before) / moves
            print(
                f"{name:22} least {times[0]:5.1f} ms  median {times[moves // 2]:5.1f} ms  of 16 ms; "
                f"{spent:5.1f} ms CPU a frame"
            )
        browser.quit()


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
