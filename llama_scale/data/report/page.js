// The page: controls, what they change, the address that keeps them, and the pictures.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const base = answers.prepare(data.problem);
  const planned = base.settings;
  const { element, fill, say } = elements;
  const $ = (id) => document.getElementById(id);
  document.documentElement.classList.add("live"); // what needs scripts is shown
  const PAPER = 642; // pixels: the 17 cm that page.css gives a chart in print, whatever the window's width
  let settings = { ...planned };
  let found = null;

  function make(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // ---- controls: a whole number of steps from the planned value, so that the plan itself is a place

  const FORMATS = {
    count: (value) => (value === 0 ? "none" : words.count(value)),
    share: (value) => words.share(value),
    price: (value) => `$${value < 100 ? value.toFixed(2) : words.digits(value)}/h`,
    loss: (value) => `${value.toFixed(3)} nats`,
    cost: (value) => words.cost(value, base.unit),
  };

  const controls = data.controls.map((spec) => {
    const { scale, step, low, high, planned: middle } = spec;
    const isLog = scale === "log";
    const start = middle === 0 ? low : middle;
    const placeOf = (value) => {
      if (isLog && value <= 0) return 0;
      return isLog ? Math.log(value / start) / step : (value - start) / step;
    };
    const none = middle === 0 && isLog ? 1 : 0; // nothing at all stands at the left end
    const valueAt = (place) => {
      if (place === 0) return middle;
      const moved = place - none;
      const value = isLog ? start * Math.exp(step * moved) : start + step * moved;
      return Number(value.toPrecision(isLog ? 5 : 12)); // a place is a number that people would write
    };
    const first = none ? 0 : Math.ceil(placeOf(low) - 1e-9);
    const last = Math.floor(placeOf(high) + none + 1e-9);
    return { ...spec, first, last, valueAt, placeOf: (value) => (value === middle ? 0 : placeOf(value) + none) };
  });

  const valueOf = (name) => (name === "input_share" ? settings.read / (settings.read + settings.written) : settings[name]);

  // Puts one control's value into the settings; what belongs together moves together.
  function assign(into, name, value) {
    const spec = controls.find((control) => control.name === name);
    if (name === "input_share") {
      const whole = planned.read + planned.written;
      const isPlanned = value === spec.planned;
      const read = Number((value * whole).toPrecision(12));
      Object.assign(into, isPlanned ? pair(planned.read, planned.written) : pair(read, Number((whole - read).toPrecision(12))));
    } else {
      into[name] = value;
      const isShared = name === "price" && !controls.some((control) => control.name === "serve_price");
      if (isShared) into.serve_price = value;
    }
    return into;
  }

  const pair = (read, written) => ({ read, written });

  function build() {
    const goals = make("fieldset", {}, make("legend", {}, "Looking for"));
    for (const [goal, label] of [["budget", "the lowest loss on a budget"], ["loss", "the lowest cost of a loss"]]) {
      const input = make("input", { type: "radio", name: "goal", value: goal, id: `goal-${goal}` });
      input.addEventListener("change", () => change(() => (settings.goal = goal)));
      goals.append(make("label", { for: `goal-${goal}` }, input, ` ${label}`), make("br"));
    }
    $("controls").append(goals, ...controls.map(controlOf));
    $("reset").addEventListener("click", () => change(() => (settings = { ...planned })));
    $("copy").addEventListener("click", copy);
    $("download").addEventListener("click", download);
    window.addEventListener("hashchange", () => change(() => (settings = fromAddress())));
    new ResizeObserver(() => requestAnimationFrame(() => redraw())).observe(document.body);
    window.addEventListener("beforeprint", () => redraw(PAPER));
    window.addEventListener("afterprint", () => redraw());
  }

  function controlOf(control) {
    const { name, label, first, last, goal } = control;
    const id = `control-${name}`;
    const output = make("output", { for: id, id: `${id}-value` });
    const input = make("input", { type: "range", id, min: first, max: last, step: 1 });
    input.addEventListener("input", () => change(() => assign(settings, name, control.valueAt(Number(input.value))), true));
    const mark = make("span", { class: "planned", "aria-hidden": "true", title: "as planned" });
    const share = last > first ? (0 - first) / (last - first) : 0;
    mark.style.left = `calc(${(100 * share).toFixed(2)}% + ${(8 - 16 * share).toFixed(1)}px)`;
    const whole = make(
      "div", { class: "control", id: `${id}-whole` },
      make("label", { for: id }, label, output),
      make("div", { class: "rail" }, input, mark),
    );
    if (goal) whole.dataset.goal = goal;
    return whole;
  }

  function showControls() {
    for (const goal of ["budget", "loss"]) $(`goal-${goal}`).checked = settings.goal === goal;
    for (const control of controls) {
      const { name, format, goal, planned: middle } = control;
      const value = valueOf(name);
      const input = $(`control-${name}`);
      const place = String(Math.round(control.placeOf(value)));
      if (input.value !== place) input.value = place;
      const text = FORMATS[format](value);
      const isMoved = value !== middle;
      const spoken = isMoved ? `${text}, planned ${FORMATS[format](middle)}` : `${text}, as planned`;
      if (input.getAttribute("aria-valuetext") !== spoken) input.setAttribute("aria-valuetext", spoken);
      say($(`control-${name}-value`), text);
      $(`control-${name}-whole`).hidden = Boolean(goal) && goal !== settings.goal;
    }
    const changed = moved();
    $("reset").disabled = changed.length === 0;
    say($("moved"), changed.length ? `Moved: ${changed.map(labelOf).join(", ")}.` : "All as planned (▲).");
  }

  const labelOf = (name) => (name === "goal" ? "the goal" : controls.find((control) => control.name === name).label.toLowerCase());

  function moved() {
    const names = controls.filter(({ goal }) => !goal || goal === settings.goal);
    const found = names.filter((control) => valueOf(control.name) !== control.planned).map(({ name }) => name);
    return settings.goal === planned.goal ? found : ["goal", ...found];
  }

  // ---- the address: only what was moved, as plain numbers

  function toAddress() {
    const parts = moved().map((name) => [name, name === "goal" ? settings.goal : String(valueOf(name))]);
    const hash = new URLSearchParams(parts).toString();
    try {
      history.replaceState(null, "", hash ? `#${hash}` : location.href.split("#")[0]);
    } catch {
      location.hash = hash; // where a page may not touch its history
    }
  }

  function fromAddress() {
    const read = { ...planned };
    for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
      if (name === "goal" && ["budget", "loss"].includes(text)) read.goal = text;
      const control = controls.find((one) => one.name === name);
      const value = Number(text);
      if (!control || text.trim() === "" || !Number.isFinite(value)) continue;
      const isNone = value === 0 && control.planned === 0;
      assign(read, name, isNone ? 0 : Math.min(control.high, Math.max(control.low, value)));
    }
    return read;
  }

  // ---- a change: solve, show, keep in the address; what took how long stays readable for whoever measures

  const timing = { solve: 0, draw: 0, redraws: 0 };
  const AT_REST = 150; // milliseconds without a move: then come all draws of the bands, the address, the words
  let waiting = 0;
  let frame = 0;

  // The settings change at once; what they lead to is drawn at most once a frame while a control moves.
  function change(move, isMoving = false) {
    move();
    clearTimeout(waiting);
    if (!isMoving) show(false);
    else {
      frame ||= requestAnimationFrame(() => show(true));
      waiting = setTimeout(() => show(false), AT_REST);
    }
  }

  function show(isMoving) {
    cancelAnimationFrame(frame);
    frame = 0;
    const before = performance.now();
    found = { ...answers.solve(base, settings), isMoving };
    timing.solve = performance.now() - before;
    showControls();
    showCards();
    drawAnswer();
    if (!isMoving) {
      showCommand();
      toAddress();
      speak();
    }
    timing.draw = performance.now() - before - timing.solve;
    timing.redraws += 1;
  }

  // ---- the answer in figures

  const isPlanned = () => moved().length === 0;

  function showCards() {
    const { best, rival, unit } = found;
    $("stretched").hidden = !isStretched();
    if (!rival) {
      fill($("cards"), [element("p", { class: "warning" }, IMPOSSIBLE)]);
      return;
    }
    const sure = isPlanned() && data.intervals ? data.intervals : answers.intervals(base, found);
    const cost = best.cost[unit];
    const saved = 1 - cost.total / rival.cost[unit].total;
    const other = unit === "usd" ? `${words.flops(best.cost.flops.total)} FLOPs` : words.usd(best.cost.usd.total);
    const isHeld = best.parameters > found.problem.limits.parameters * 0.999;
    const [from, to] = isHeld
      ? ["the largest allowed", ""]
      : sure
        ? [words.range(sure.parameters, words.count), words.range(sure.tokens, words.count)]
        : ["no interval", "no interval"];
    const [trained, served] = words.split(cost.train / cost.total);
    const cards = [
      [words.count(best.parameters), "parameters", from],
      [words.count(best.tokens), `tokens, ${words.digits(best.tokens / best.parameters)} a parameter`, to],
      [best.loss.toFixed(4), "loss, nats a token", ""],
      [words.cost(cost.total, unit), `training ${trained}, serving ${served}`, other],
      [saving(saved), "against the compute-optimal model of equal loss", `${words.count(rival.parameters)} on ${words.count(rival.tokens)}`],
    ];
    const card = ([figure, name, more]) =>
      element("div", { class: "card" }, element("b", {}, figure), element("span", {}, name), element("span", {}, more));
    fill($("cards"), cards.map(card));
  }

  const FITS = 5; // times smaller than planned: a command's best sizes then part by more than 5 % from the page's

  // Proportions bear on the answer where a shape is served by a roofline, or has its exact FLOPs counted.
  function isStretched() {
    const isShaped = !base.family.is6ND || found.problem.byRoofline;
    return isShaped && Boolean(found.rival) && found.best.parameters < data.planned.parameters / FITS;
  }

  const IMPOSSIBLE =
    "No model does this: the budget does not pay for serving so much, or no size reaches that loss within the limits.";

  // What a screen reader says of a change, once the control rests.
  function speak() {
    const { best, rival, unit } = found;
    const told = () =>
      `${words.count(best.parameters)} parameters on ${words.count(best.tokens)} tokens: loss ${best.loss.toFixed(3)}, ` +
      `${words.cost(best.cost[unit].total, unit)} for its life.`;
    say($("spoken"), rival ? told() : IMPOSSIBLE);
  }

  function saving(share) {
    if (!Number.isFinite(share)) return "it cannot be served";
    if (Math.abs(share) < 5e-4) return "the same";
    return share > 0 ? `${words.share(share, 2)} less` : `${words.share(-share, 2)} more`;
  }

  // ---- pictures

  const shown = () => ({ data, base, found, isPlanned: isPlanned() });

  // Draws anew what has another width now, or all at a given one.
  function redraw(given) {
    const charted = ["cost", "even", "demand", "fit"].map((name) => $(`${name}-chart`)).filter((into) => into.clientWidth);
    const before = charted.map((into) => into.dataset.width);
    charted.forEach((into) => (into.dataset.width = charts.measure(into, given)));
    if (charted.every((into, i) => into.dataset.width === before[i])) return;
    pictures.evidence({ data });
    drawAnswer(true);
  }

  const ANSWERS = { cost: pictures.costs, even: pictures.breakEven, demand: pictures.demand };
  const onScreen = new Set(Object.keys(ANSWERS));

  // While a control moves only what is on the screen follows; the rest does as it comes into sight, or at rest.
  function drawAnswer(isWhole = !found.isMoving) {
    for (const [name, draw] of Object.entries(ANSWERS)) {
      const figure = $(`${name}-figure`);
      if (!found.rival) figure.hidden = true;
      else if (isWhole || figure.hidden || onScreen.has(name)) {
        figure.hidden = false;
        draw(shown());
      }
    }
  }

  function watchScreen() {
    const watcher = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) {
        const name = target.id.replace("-chart", "");
        if (!isIntersecting) onScreen.delete(name);
        else if (!onScreen.has(name)) {
          onScreen.add(name);
          if (found.isMoving && found.rival) ANSWERS[name](shown());
        }
      }
    });
    for (const name of Object.keys(ANSWERS)) watcher.observe($(`${name}-chart`));
  }

  // ---- the command, copied; the plan, downloaded

  function commandWords() {
    const changed = new Set(moved());
    const given = data.command.filter(([name]) => !replaced(name, changed));
    return [...given, ...extra(changed)].map(([name, text]) => (text === null ? name : `${name} ${text}`));
  }

  const GOALS = ["--budget", "--target-loss", "--target-score", "--match"];
  const REPLACES = {
    goal: GOALS, budget: ["--budget"], target_loss: GOALS.slice(1),
    serve_tokens: ["--serve-tokens", "--requests"], price: ["--price", "--serve-price"], serve_price: ["--serve-price"],
    mfu: ["--mfu", "--goodput"], utilisation: ["--utilisation"],
    input_share: ["--input-share", "--input-tokens", "--output-tokens"],
  };

  const replaced = (name, changed) => [...changed].some((one) => (REPLACES[one] ?? []).includes(name));

  function extra(changed) {
    const made = [];
    const isGoal = changed.has("goal");
    const price = (value) => `'$${value}/h'`;
    if (settings.goal === "budget" && (isGoal || changed.has("budget"))) made.push(["--budget", quotedBudget(settings.budget)]);
    if (settings.goal === "loss" && changed.size) {
      if (isGoal || changed.has("target_loss")) made.push(["--target-loss", settings.target_loss]);
      if (!data.command.some(([name]) => name === "--cost-in")) made.push(["--cost-in", base.unit.replace("_", "-")]);
    }
    if (changed.has("serve_tokens")) {
      const { read, written } = settings;
      made.push(["--serve-tokens", (settings.serve_tokens * (read + written)) / (read + base.demand.samples * written)]);
    }
    if (changed.has("price")) made.push(["--price", price(settings.price)], ["--serve-price", price(settings.serve_price)]);
    else if (changed.has("serve_price")) made.push(["--serve-price", price(settings.serve_price)]);
    if (changed.has("mfu")) made.push(["--mfu", settings.mfu], ["--goodput", base.training.goodput]);
    if (changed.has("utilisation")) made.push(["--utilisation", settings.utilisation]);
    if (changed.has("input_share")) made.push(["--input-tokens", settings.read], ["--output-tokens", settings.written]);
    return made;
  }

  function quotedBudget(value) {
    if (base.unit === "flops") return `${value}`;
    return base.unit === "usd" ? `'$${value}'` : `'${value} GPU-hours'`;
  }

  function showCommand() {
    const spoken = ["llama-scale plan", ...commandWords()].map((word) => make("span", {}, word));
    $("command").replaceChildren(...spoken.flatMap((word, i) => (i ? [" ", word] : [word])));
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText($("command").textContent);
      $("copy").textContent = "Copied";
    } catch {
      getSelection().selectAllChildren($("command")); // the reader copies what is marked
      $("copy").textContent = "Marked: copy it with Ctrl-C";
    }
  }

  function download() {
    const blob = new Blob([$("plan").textContent], { type: "application/json" });
    const link = make("a", { href: URL.createObjectURL(blob), download: "plan.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  build();
  pictures.evidence({ data });
  change(() => (settings = fromAddress()));
  watchScreen();

  // For tests and for whoever opens the console: what the page knows, and the same closed forms.
  window.llamaScale = {
    timing,
    settings: () => ({ ...settings }),
    set: (changed) => change(() => Object.entries(changed).forEach(([name, value]) => (name === "goal" ? (settings.goal = value) : assign(settings, name, value)))),
    answer: () => ({ ...found.best, rival: found.rival, even: found.even, ranges: found.rival && answers.cheapRanges(base, found) }),
    modelAt: (parameters, tokens) => model.modelAt(found.problem, parameters, tokens),
  };
})();
