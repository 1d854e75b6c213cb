"""How long the page of a plan takes to write, and to redraw after a control moves, in headless Chromium.

    python benchmarks/report.py [moves] [height]    # of the window, 1,000; with 2,400 all charts are in sight

The budgets are 1 s to write and 16 ms a move on a 2-core machine. A move is what the page does for it: its
script, and the style and layout that its changes make, forced right after it. Beside the wall time stands the
CPU time of the browser's main thread, for the same and for a whole frame, painting included; and how many
times 100,000 powers, timed in the same browser, fit into a move, which a slower or busy machine hardly moves.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llama_scale import plan
from llama_scale.planning import PlanOptions
from llama_scale.report import write_report

QUESTIONS: dict[str, PlanOptions] = {
    "dollars, roofline": {"serve_tokens": "10T", "budget": "$5M"},
    "repeated data, 4 bits": {
        "serve_tokens": "1e12", "budget": "1M GPU-hours", "unique_tokens": "300B", "serve_precision": "int4",
        "quantisation_penalty": True,
    },
}  # fmt: skip
MOVE = """
const [name, moves, done] = arguments;
const input = document.getElementById(name);
const frame = () => new Promise(requestAnimationFrame);
(async () => {
  const times = [];
  for (let i = 0; i < moves; i++) {
    input.value = Number(input.min) + (Number(input.max) - Number(input.min)) * (((i * 37) % 60) / 60);
    input.dispatchEvent(new Event("input"));
    await frame(); // asked for after the page's own, which has drawn by then
    const { solve, draw } = llamaScale.timing;
    const start = performance.now();
    document.body.getBoundingClientRect();
    times.push(solve + draw + performance.now() - start);
    await frame();
  }
  done(times.sort((a, b) => a - b));
})();
"""


POWERS = """
let [least, sum] = [Infinity, 0];
for (let round = 0; round < 20; round++) {
  const start = performance.now();
  for (let i = 1; i <= 100_000; i++) sum += Math.pow(i, -0.34);
  least = Math.min(least, performance.now() - start);
}
return sum > 0 && least;
"""
MOVED = ("ScriptDuration", "RecalcStyleDuration", "LayoutDuration")


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


def thread_seconds(browser: Any) -> tuple[float, float]:
    """CPU seconds that the page's main thread has worked: on what a move is, and on everything."""
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    seconds = {metric["name"]: metric["value"] for metric in metrics}
    return sum(seconds[name] for name in MOVED), seconds["TaskDuration"]


def run(moves: int, height: int) -> None:
    """Prints one line a question and a control."""
    with tempfile.TemporaryDirectory() as folder:
        browser = chromium(str(Path(folder) / "profile"))
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        browser.set_script_timeout(600)
        browser.set_window_size(1400, height)
        for question, words in QUESTIONS.items():
            answer = plan(**words)
            start = time.process_time()
            file = write_report(answer, Path(folder) / "plan.html", overwrite=True)
            spent = 1e3 * (time.process_time() - start)
            size = file.stat().st_size / 1000
            print(f"{question}: written in {spent:.0f} ms CPU of 1,000 ms, {size:.0f} kB of 200 kB")
            browser.get(file.as_uri())
            move_all(browser, moves)
        browser.quit()


def move_all(browser: Any, moves: int) -> None:
    """One line a control of the page that is open."""
    names = "return [...document.querySelectorAll('.control:not([hidden]) input')].map((one) => one.id)"
    for name in browser.execute_script(names):
        browser.execute_async_script(MOVE, name, moves)  # the compiler has seen it all by then
        powers = browser.execute_script(POWERS)
        before = thread_seconds(browser)
        times = browser.execute_async_script(MOVE, name, moves)
        after = thread_seconds(browser)
        move, frame = (1e3 * (end - start) / moves for start, end in zip(before, after, strict=True))
        print(
            f"  {name:22} least {times[0]:4.1f} ms  median {times[moves // 2]:4.1f} ms  95 % "
            f"{times[int(0.95 * moves)]:4.1f} ms  of 16 ms; CPU "
            f"{move:4.1f} ms ({move / powers:3.1f} x the powers), whole frame {frame:4.1f} ms"
        )


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    run(*given, *(100, 1000)[len(given) :])
