"""The page of a plan in Chromium: no request, the closed forms of Python, keyboard, widths, its address."""

from __future__ import annotations

import base64
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import QUESTIONS, opened

from llama_scale.planning import Plan
from llama_scale.planning.families import coordinate_of
from llama_scale.planning.optimum import Objective, Problem, best
from llama_scale.planning.request import Request, limited

EACH = 40  # settings of each question: 280 in all
MODEL = 7e9, 1e12


def asked(made: Plan, settings: dict[str, Any]) -> tuple[Request, Problem, Objective]:
    """The plan's question at other settings, on the continuum through its shape."""
    economics = made.request.economics
    hired = [
        replace(part.rental, price_usd_per_hour=settings[price])
        for part, price in ((economics.training, "price"), (economics.serving, "serve_price"))
    ]
    tokens = {"input_tokens": settings["read"], "output_tokens": settings["written"]}
    demand = replace(economics.demand, serve_tokens=settings["serve_tokens"], spread=None, **tokens)
    deployment = economics.deployment
    if deployment is not None:
        deployment = replace(
            deployment,
            rental=hired[1],
            utilisation=settings["utilisation"],
            input_tokens=settings["read"],
            output_tokens=max(settings["written"], 1.0),
        )
    changed = replace(
        economics,
        training=replace(economics.training, mfu=settings["mfu"], rental=hired[0]),
        serving=replace(economics.serving, utilisation=settings["utilisation"], rental=hired[1]),
        demand=demand,
        deployment=deployment,
    )
    asked = replace(made.request, economics=changed)
    problem = asked.problem().through(made.shape)
    request = limited(asked, problem.family)
    value = settings["target_loss" if settings["goal"] == "loss" else "budget"]
    objective = Objective(settings["goal"], math.inf if value is None else value, request.limits)
    return request, problem, objective


SOLVE = """
const [moves, size] = arguments;
return moves.map((move) => {
  document.getElementById("reset").click();
  llamaScale.set(move);
  const { parameters, tokens } = llamaScale.answer();
  const { loss, cost } = llamaScale.modelAt(...size);
  return { settings: llamaScale.settings(), parameters, tokens, loss, cost };
});
"""


@pytest.mark.parametrize("name", QUESTIONS)
def test_at_any_settings_the_page_says_what_python_says(
    browser: Any, plans: dict[str, Plan], pages: dict[str, str], name: str
) -> None:
    made, rng = plans[name], random.Random(name)
    opened(browser, pages[name])
    ranges = browser.execute_script("return JSON.parse(document.getElementById('data').textContent).controls")
    moves = [{}, *(_moved(ranges, rng) for _ in range(EACH - 1))]
    answers = browser.execute_script(SOLVE, moves, MODEL)
    assert answers[0]["parameters"] == pytest.approx(made.optimum.parameters, rel=1e-6)
    assert answers[0]["tokens"] == pytest.approx(made.optimum.tokens, rel=1e-6)
    solved = 0
    for answer in answers:
        request, problem, objective = asked(made, answer["settings"])
        solution = best(problem, objective)
        tokens = float(solution.tokens)
        solved += math.isfinite(tokens)
        assert answer["tokens"] == (None if math.isnan(tokens) else pytest.approx(tokens, rel=1e-6))
        if math.isfinite(tokens):
            assert answer["parameters"] == pytest.approx(float(solution.sizes.parameters), rel=1e-6)
        _compare_model(answer, request, problem)
    assert solved > EACH / 2


def _moved(ranges: list[dict[str, Any]], rng: random.Random) -> dict[str, Any]:
    """Every control anywhere on its scale."""
    values: dict[str, Any] = {"goal": rng.choice(["budget", "loss"])}
    if not any(control["name"] == "budget" for control in ranges):
        del values["goal"]
    for control in ranges:
        low, high = control["low"], control["high"]
        values[control["name"]] = (
            low * (high / low) ** rng.random() if control["scale"] == "log" else rng.uniform(low, high)
        )
    return values


def _compare_model(answer: dict[str, Any], request: Request, problem: Problem) -> None:
    """Loss and costs of one model, in every unit."""
    size, tokens = MODEL
    sizes = problem.family.sizes(coordinate_of(problem.family, size), shaped=True)
    assert answer["loss"] == pytest.approx(float(problem.law.loss(sizes.parameters, tokens)), rel=1e-9)
    served = request.economics.demand.serve_tokens
    life = request.economics.lifetime(
        train_flops=float(sizes.train_flops_per_token) * tokens,
        serve_flops=float(sizes.serve_flops_per_token) * served,
        shape=sizes.shape,
    )
    for unit, cost in answer["cost"].items():
        for part in ("train", "serve"):
            expected = getattr(life, f"{part}_{unit}")
            assert cost[part] == (None if expected is None else pytest.approx(expected, rel=1e-9)), (
                unit,
                part,
            )
    whole = answer["cost"][request.unit]["total"]
    assert whole == pytest.approx(float(np.asarray(problem.cost(sizes, tokens))), rel=1e-9)


def test_a_size_that_the_planned_proportions_do_not_suit_is_said(browser: Any, pages: dict[str, str]) -> None:
    shown = "llamaScale.set(arguments[0]); return !document.getElementById('stretched').hidden"
    opened(browser, pages["roofline"])
    assert not browser.execute_script(shown, {"budget": 4e6})
    assert browser.execute_script(shown, {"budget": 1494000, "serve_tokens": 150740000000000})
    opened(browser, pages["flops"])  # where FLOPs are 6ND, no proportion but the size counts
    assert not browser.execute_script(shown, {"serve_tokens": 900e12})


@pytest.mark.parametrize("name", ["roofline", "exact-loss"])
def test_it_loads_from_disk_without_an_error_or_a_request(
    browser: Any, pages: dict[str, str], name: str
) -> None:
    opened(browser, pages[name])
    browser.execute_script("document.getElementById('reset').focus(); window.scrollTo(0, 1e6)")
    asked_for = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert [url for url in asked_for if not url.startswith("data:")] == [pages[name]]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('.chart svg').length") == 4


@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("name", ["roofline", "flops"])
def test_it_fits_narrow_and_wide_windows(browser: Any, pages: dict[str, str], name: str, width: int) -> None:
    opened(browser, pages[name], width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    beyond = """
    const box = (text) => text.getBoundingClientRect();
    return [...document.querySelectorAll('.chart text')].filter((text) =>
      box(text).left < -1 || box(text).right > innerWidth + 1).map((text) => text.textContent);
    """
    assert browser.execute_script(beyond) == []


def test_no_word_of_the_command_is_broken_at_a_hyphen(browser: Any, pages: dict[str, str]) -> None:
    lines = "return [...document.querySelectorAll('#command span')].map((word) => word.clientHeight)"
    opened(browser, pages["exact-loss"], 380)
    heights = browser.execute_script(lines)
    assert len(heights) > 3 and len(set(heights)) == 1


def test_without_scripts_nothing_is_shown_that_needs_them(
    browser: Any, pages: dict[str, str], tmp_path: Path
) -> None:
    kept, _, _ = Path(pages["roofline"].removeprefix("file://")).read_text("utf-8").rpartition("<script>")
    still = tmp_path / "still.html"
    still.write_text(kept, "utf-8")
    shown = (
        "return [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility()).length"
    )
    opened(browser, still.as_uri())
    assert browser.execute_script(shown, "button, .chart, figcaption, .boundary") == 0
    assert browser.execute_script(shown, "table, #command") == 4


def test_a_scrolled_table_still_names_itself_and_its_rows(browser: Any, pages: dict[str, str]) -> None:
    seen = """
    return [...document.querySelectorAll('.scroll')].map((table) => {
      table.scrollLeft = 1e6;
      return [...table.querySelectorAll('caption span, tbody th')].every((name) => {
        const box = name.getBoundingClientRect();
        return box.left >= 0 && box.right <= innerWidth;
      });
    });
    """
    opened(browser, pages["roofline"], 380)
    assert browser.execute_script(seen) == [True, True, True]


@pytest.mark.parametrize("width", [380, 1400])
def test_it_prints_the_same_charts_from_any_window(browser: Any, pages: dict[str, str], width: int) -> None:
    opened(browser, pages["roofline"], width)
    seen = """
    const widths = () => [...document.querySelectorAll('.chart svg')].map((one) => one.viewBox.baseVal.width);
    const before = widths();
    window.dispatchEvent(new Event("beforeprint"));
    const printed = widths();
    window.dispatchEvent(new Event("afterprint"));
    return [before, printed, widths()];
    """
    before, printed, after = browser.execute_script(seen)
    assert printed == [642] * 4
    assert after == before != printed


def test_the_keyboard_reaches_and_moves_every_control(browser: Any, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(browser, pages["roofline"])
    names = """
    const all = [...document.querySelectorAll('input, button, pre')];
    return all.filter((one) => one.offsetParent && !one.disabled).map((one) => one.id);
    """
    wanted = set(browser.execute_script(names))
    reached = []
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.execute_script("return document.activeElement.id"))
    assert wanted - set(reached) <= {"goal-loss"}  # of radio buttons the one that is on is a stop
    for name in sorted(one for one in wanted if one.startswith("control-")):
        before = browser.execute_script(
            f"document.getElementById('{name}').focus(); return llamaScale.settings()"
        )
        ActionChains(browser).send_keys(Keys.ARROW_LEFT).perform()
        assert browser.execute_script("return llamaScale.settings()") != before, name
    browser.execute_script("document.getElementById('goal-budget').focus()")
    ActionChains(browser).send_keys(Keys.ARROW_DOWN).perform()
    assert browser.execute_script("return llamaScale.settings().goal") == "loss"
    assert browser.execute_script("return location.hash").startswith("#goal=loss")


def test_controls_and_pictures_have_names(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["roofline"])
    unnamed = """
    const inputs = [...document.querySelectorAll('input')].filter((one) => !one.labels.length);
    const pictures = [...document.querySelectorAll('svg[role=img]')].filter((one) =>
      ['labelledby', 'describedby'].some((part) =>
        !document.getElementById(one.getAttribute('aria-' + part))?.textContent.trim()));
    return [...inputs, ...pictures].map((one) => one.outerHTML.slice(0, 200));
    """
    assert browser.execute_script(unnamed) == []
    said = browser.execute_script(
        "return document.getElementById('control-budget').getAttribute('aria-valuetext')"
    )
    assert said == "$5M, as planned"


def test_the_address_keeps_what_was_moved_and_reset_forgets_it(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["roofline"])
    planned = browser.execute_script("return llamaScale.settings()")
    browser.execute_script("llamaScale.set({ price: 4.321, input_share: 0.25, serve_tokens: 3e12 })")
    moved = browser.execute_script("return llamaScale.settings()")
    address = browser.execute_script("return location.href")
    assert moved["serve_price"] == 4.321
    assert browser.execute_script("return document.getElementById('command').textContent").endswith(
        "--law besiroglu-2024 --flops 6nd --serve-tokens 3000000000000 "
        "--price '$4.321/h' --serve-price '$4.321/h' --input-tokens 312.5 --output-tokens 937.5"
    )
    opened(browser, address)
    assert browser.execute_script("return llamaScale.settings()") == moved
    browser.execute_script("document.getElementById('reset').click()")
    assert browser.execute_script("return llamaScale.settings()") == planned
    assert browser.execute_script("return location.hash") == ""


DRAG = """
const [name, done] = arguments;
const input = document.getElementById(name);
const [spoken, drawn] = [document.getElementById("spoken"), document.querySelector("#cost-chart svg")];
const state = () => ({
  redraws: llamaScale.timing.redraws, spoken: spoken.textContent, hash: location.hash,
  parameters: llamaScale.answer().parameters, kept: drawn === document.querySelector("#cost-chart svg"),
});
const before = state();
for (let i = 0; i < 10; i++) {
  input.value = Number(input.value) + 3;
  input.dispatchEvent(new Event("input"));
}
const settings = llamaScale.settings();
requestAnimationFrame(() => {
  const moving = state();
  setTimeout(() => done({ before, moving, rest: state(), settings }), 600);
});
"""


def test_a_drag_is_drawn_once_a_frame_and_told_when_it_rests(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["roofline"])
    seen = browser.execute_async_script(DRAG, "control-serve_tokens")
    before, moving, rest = seen["before"], seen["moving"], seen["rest"]
    assert seen["settings"]["serve_tokens"] == pytest.approx(10e12 * 1.02**30, rel=1e-3)
    assert moving["redraws"] == before["redraws"] + 1
    assert moving["parameters"] < before["parameters"]
    assert (moving["spoken"], moving["hash"]) == (before["spoken"], "")
    assert rest["redraws"] == before["redraws"] + 2
    assert rest["spoken"] != before["spoken"]
    assert rest["hash"].startswith("#serve_tokens=")
    assert moving["kept"]
    assert rest["kept"]


SCROLLED = """
const done = arguments[0];
const input = document.getElementById("control-serve_tokens");
const drawn = () => ["cost", "demand"].map((name) => document.getElementById(`${name}-chart`).innerHTML);
const frame = () => new Promise((then) => requestAnimationFrame(() => setTimeout(then)));
const move = async () => {
  input.value = Number(input.value) + 3;
  input.dispatchEvent(new Event("input"));
  await frame();
};
(async () => {
  window.scrollTo(0, 0);
  await frame();
  await frame();
  const before = drawn();
  await move();
  const moving = drawn();
  document.getElementById("demand-chart").scrollIntoView();
  for (let i = 0; i < 5; i++) await move(); // moves all the while, so that it is never at rest
  const inSight = drawn();
  await move();
  const after = drawn();
  window.scrollTo(0, 0);
  setTimeout(() => done([before, moving, inSight, after, drawn()]), 600);
})();
"""


def test_while_a_control_moves_what_is_in_sight_follows_and_at_rest_everything(
    browser: Any, pages: dict[str, str]
) -> None:
    opened(browser, pages["roofline"])
    before, moving, in_sight, after, rest = browser.execute_async_script(SCROLLED)
    (cost, demand) = range(2)
    assert moving[cost] != before[cost]
    assert moving[demand] == before[demand]
    assert in_sight[demand] != moving[demand]
    assert after[demand] != in_sight[demand]
    assert after[cost] == in_sight[cost]
    assert rest[cost] != after[cost]


NOTHING_SERVED = """
const done = arguments[0];
llamaScale.set({ serve_tokens: 0 });
const input = document.getElementById("control-price");
const hidden = () => document.getElementById("even-figure").hidden;
const seen = [hidden()];
const frame = () => new Promise((then) => requestAnimationFrame(() => setTimeout(then)));
(async () => {
  await frame();
  await frame();
  for (let i = 0; i < 3; i++) {
    input.value = Number(input.value) + 1;
    input.dispatchEvent(new Event("input"));
    await frame();
    seen.push(hidden());
  }
  setTimeout(() => done([...seen, hidden()]), 600);
})();
"""


def test_a_picture_that_has_nothing_to_show_stays_away_while_a_control_moves(
    browser: Any, pages: dict[str, str]
) -> None:
    opened(browser, pages["roofline"])
    assert browser.execute_async_script(NOTHING_SERVED) == [True] * 5


# Charts are drawn anew, a frame later, where their place turns out to have another width.
SETTLED = """
const done = arguments[arguments.length - 1];
const frame = () => new Promise((then) => requestAnimationFrame(() => setTimeout(then)));
(async () => {
  for (let i = 0; i < 4; i++) await frame();
  done(document.querySelector(".bench").outerHTML);
})();
"""


@pytest.mark.parametrize("name", ["roofline", "few-data-int4"])
def test_what_was_changed_in_place_is_what_would_be_drawn_anew(
    browser: Any, pages: dict[str, str], name: str
) -> None:
    opened(browser, pages[name])
    fresh = browser.execute_async_script(SETTLED)
    moves = [{"serve_tokens": 3e13, "price": 1.5}, {"goal": "loss", "target_loss": 1.8}, {"mfu": 0.6}]
    for move in moves:
        browser.execute_script("llamaScale.set(arguments[0])", move)
        assert browser.execute_async_script(SETTLED) != fresh
    browser.execute_script("document.getElementById('reset').click()")
    assert browser.execute_async_script(SETTLED) == fresh
    browser.execute_script("llamaScale.set(arguments[0])", moves[0])
    changed, address = browser.execute_async_script(SETTLED), browser.execute_script("return location.href")
    opened(browser, address)
    assert browser.execute_async_script(SETTLED) == changed


def test_a_hostile_address_changes_nothing_but_what_it_may(browser: Any, pages: dict[str, str]) -> None:
    opened(
        browser,
        pages["roofline"] + "#price=NaN&mfu=<img%20src=x>&__proto__=1&goal=x&budget=&utilisation=1e99",
    )
    planned = browser.execute_script(
        "return JSON.parse(document.getElementById('data').textContent).problem.settings"
    )
    assert browser.execute_script("return llamaScale.settings()") == planned
    assert browser.get_log("browser") == []


def test_what_cannot_be_done_is_said(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["roofline"])
    browser.execute_script("llamaScale.set({ goal: 'loss', target_loss: 1.8 })")
    assert "No model does this" in browser.execute_script(
        "return document.getElementById('cards').textContent"
    )
    assert browser.get_log("browser") == []


def test_the_command_of_moved_controls_gives_what_the_page_says(
    browser: Any, plans: dict[str, Plan], pages: dict[str, str]
) -> None:
    import shlex

    from click.testing import CliRunner

    from llama_scale.cli import main

    opened(browser, pages["roofline"])
    script = """
    const loss = { goal: "loss", target_loss: 2.0, serve_tokens: 2e12 };
    llamaScale.set({ ...loss, mfu: 0.5, utilisation: 0.6, price: 2.5 });
    return [document.getElementById("command").textContent, llamaScale.answer().parameters];
    """
    command, parameters = browser.execute_script(script)
    shown = CliRunner().invoke(main, [*shlex.split(command)[1:], "--json"])
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout)["optimum"]["parameters"] == pytest.approx(parameters, rel=0.03)


def test_screenshots_are_made_for_people_to_look_at(
    browser: Any, pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Light, dark, on paper and narrow: pytest keeps them among its temporary folders."""
    folder = tmp_path_factory.mktemp("screenshots")
    looks = {
        "light": (1400, "", "light"),
        "dark": (1400, "", "dark"),
        "paper": (794, "print", "light"),
        "narrow": (380, "", "light"),
    }
    shades = {}
    for look, (width, media, scheme) in looks.items():
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        opened(browser, pages["roofline"], width)
        shades[look] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, look
        whole = {"format": "png", "captureBeyondViewport": True}
        image = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", whole)["data"])
        (folder / f"{look}.png").write_bytes(image)
        assert len(image) > 50_000, look
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert shades["dark"] != shades["light"] == shades["paper"]
