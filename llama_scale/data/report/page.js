// The page: controls, what they change, the address that keeps them, and the pictures.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const base = answers.prepare(data.problem);
  const planned = base.settings;
  const { element, fill, say } = elements;
  const $ = (id) => document.getElementById(id);
  const CHART = { cost: 330, even: 250, demand: 270, fit: 300 };
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
  const within = ([low, high], format) => `${format(low)} to ${format(high)}`;

  function showCards() {
    const { best, rival, unit } = found;
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
        ? [within(sure.parameters, words.count), within(sure.tokens, words.count)]
        : ["no interval", "no interval"];
    const cards = [
      [words.count(best.parameters), "parameters", from],
      [words.count(best.tokens), `tokens, ${words.digits(best.tokens / best.parameters)} a parameter`, to],
      [best.loss.toFixed(4), "loss, nats a token", ""],
      [words.cost(cost.total, unit), `training ${words.share(cost.train / cost.total, 2)}, serving ${words.share(cost.serve / cost.total, 2)}`, other],
      [saving(saved), "against the compute-optimal model of equal loss", `${words.count(rival.parameters)} on ${words.count(rival.tokens)}`],
    ];
    const card = ([figure, name, more]) =>
      element("div", { class: "card" }, element("b", {}, figure), element("span", {}, name), element("span", {}, more));
    fill($("cards"), cards.map(card));
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

  // Draws anew what has another width now, or all at a given one.
  function redraw(given) {
    const charted = ["cost", "even", "demand", "fit"].map((name) => $(`${name}-chart`)).filter((into) => into.clientWidth);
    const before = charted.map((into) => into.dataset.width);
    charted.forEach((into) => (into.dataset.width = charts.measure(into, given)));
    if (charted.every((into, i) => into.dataset.width === before[i])) return;
    drawEvidence();
    drawAnswer(true);
  }

  const ANSWERS = { cost: drawCosts, even: drawBreakEven, demand: drawDemand };
  const onScreen = new Set(Object.keys(ANSWERS));

  // While a control moves only what is on the screen follows; the rest does as it comes into sight, or at rest.
  function drawAnswer(isWhole = !found.isMoving) {
    for (const [name, draw] of Object.entries(ANSWERS)) {
      const figure = $(`${name}-figure`);
      if (!found.rival) figure.hidden = true;
      else if (isWhole || figure.hidden || onScreen.has(name)) {
        figure.hidden = false;
        draw();
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
          if (found.isMoving && found.rival) ANSWERS[name]();
        }
      }
    });
    for (const name of Object.keys(ANSWERS)) watcher.observe($(`${name}-chart`));
  }

  const sizeAxis = (domain, name = "parameters") => ({ domain, log: true, name, format: (value) => words.count(value, 2) });
  const band = () => `the central ${words.share(base.level)} of the law's draws`;

  function drawCosts() {
    const { best, rival, unit } = found;
    const ranges = answers.cheapRanges(base, found);
    const theirs = rival.cost[unit].total;
    const apart = Number.isFinite(theirs) ? Math.max(rival.parameters / best.parameters, best.parameters / rival.parameters) : 1;
    const wide = Math.max(ranges[1].high / best.parameters, best.parameters / ranges[1].low, apart, 3);
    const reach = Math.log(wide * 1.6);
    const curve = answers.costCurve(base, found, Math.ceil(reach / model.STEP) + 1);
    const least = best.cost[unit].total;
    const top = Math.min(3.2, Math.max(1.9, Number.isFinite(theirs) ? (1.25 * theirs) / least : 0)) * least;
    const capped = (values) => values.map((value) => Math.min(value, 100 * top)); // an endless cost is a high one
    const x = curve.parameters;
    const zero = x.map(() => 0);
    const was = isPlanned() ? null : data.planned;
    const layers = [
      { kind: "span", from: ranges[1].low, to: ranges[1].high, tone: "range", opacity: 0.12, label: "5%", about: [ranges[0].high, ranges[1].high] },
      { kind: "span", from: ranges[0].low, to: ranges[0].high, tone: "range", opacity: 0.2, label: "1%" },
      { kind: "area", x, low: zero, high: curve.train.map((value, i) => (Number.isFinite(curve.total[i]) ? value : NaN)), tone: "train", opacity: 0.35 },
      { kind: "area", x, low: curve.train, high: curve.total, tone: "serve", opacity: 0.4 },
      ...(curve.band ? [{ kind: "area", x, low: capped(curve.band.low), high: capped(curve.band.high), tone: "ink", opacity: 0.16 }] : []),
      { kind: "line", x, y: curve.total, tone: "ink" },
      ...stackNames(curve, best, least),
      { kind: "marker", x: rival.parameters, y: theirs, tone: "rival", shape: "diamond", label: "compute-optimal" },
      ...(was ? [{ kind: "rule", at: was.parameters, label: "as planned" }] : []),
      { kind: "marker", x: best.parameters, y: least, tone: "ink", label: `best ${words.count(best.parameters)}`, isFirst: true },
    ];
    const half = Math.exp(reach);
    charts.draw($("cost-chart"), {
      title: "cost-title", caption: "cost-caption", height: CHART.cost, layers,
      x: sizeAxis([best.parameters / half, best.parameters * half]),
      y: { domain: [0, top], name: words.axis[unit], format: (value) => (value === 0 ? "0" : words.amount(value, unit)) },
    });
    const flat = ranges.map(({ low, high }) => `${within([low, high], words.count)}`).join(" and ");
    const sure = curve.band
      ? `Grey: ${band()}, under each of which a size must be as good as the best size is there.`
      : `No band: ${data.draws_note}.`;
    say($("cost-caption"), `Every size, trained until it reaches a loss of ${best.loss.toFixed(4)}: training (blue) and serving (orange). Green: sizes within 1% and 5% of the least cost, ${flat}. ${sure}`);
  }

  // Names inside the two areas, where they are high enough to hold one.
  function stackNames(curve, best, least) {
    const at = curve.parameters.findIndex((value) => value > best.parameters * 1.25);
    const [train, serve] = [curve.train[at], curve.serve[at]];
    const names = [];
    if (train > 0.12 * least) names.push({ kind: "marker", x: curve.parameters[at], y: train / 2, tone: "ink", label: "training", shape: "none" });
    if (serve > 0.12 * least) names.push({ kind: "marker", x: curve.parameters[at], y: train + serve / 2, tone: "ink", label: "serving", shape: "none" });
    return names;
  }

  function drawBreakEven() {
    const { best, rival, unit, even, settings: asked } = found;
    const [ours, theirs] = [best.cost[unit], rival.cost[unit]];
    const served = asked.serve_tokens;
    const figure = $("even-figure");
    figure.hidden = !served || !Number.isFinite(theirs.serve);
    if (figure.hidden) return;
    const end = Math.max(served * 1.1, even && even < 4 * served ? even * 1.3 : 0);
    const lineOf = ({ train, serve }) => [train, train + (serve / served) * end];
    const x = [0, end];
    const [mine, other] = [lineOf(ours), lineOf(theirs)];
    const layers = [
      { kind: "rule", at: served, label: "planned demand" },
      { kind: "line", x, y: other, tone: "rival", dashed: true },
      { kind: "line", x, y: mine, tone: "train" },
    ];
    layers[0].label = isPlanned() ? "planned demand" : "this demand";
    const names = [
      { x: end * 0.98, y: other[1], tone: "rival", label: `compute-optimal ${words.count(rival.parameters)}` },
      { x: end * 0.98, y: mine[1], tone: "train", label: `best ${words.count(best.parameters)}` },
    ].sort((a, b) => b.y - a.y);
    names.forEach((name, i) => layers.push({ kind: "marker", shape: "none", anchor: "end", lift: i ? 20 : -10, ...name }));
    if (even) {
      const y = ours.train + (ours.serve / served) * even;
      layers.push({ kind: "marker", x: even, y, tone: "ink", shape: "ring", label: `break-even ${words.count(even)}`, above: false });
    }
    const most = Math.max(...mine, ...other);
    const low = Math.min(ours.train, theirs.train);
    charts.draw($("even-chart"), {
      title: "even-title", caption: "even-caption", height: CHART.even, layers,
      x: { domain: x, name: "tokens served", format: (value) => (value === 0 ? "0" : words.count(value, 2)) },
      y: { domain: [low > 0.6 * most ? low - 0.35 * (most - low) : 0, most * 1.04], name: words.axis[unit], format: (value) => (value === 0 ? "0" : words.amount(value, unit)) },
    });
    say($("even-caption"), evenText(ours, theirs, served, even, unit));
  }

  function evenText(ours, theirs, served, even, unit) {
    const rivals = "the compute-optimal model of the same loss";
    const start = `Spent so far in ${words.axis[unit]}, against ${rivals}.`;
    const more = words.cost(Math.abs(ours.train - theirs.train), unit);
    if (even === null) return `${start} The best model is that model, or cheaper from the first token on.`;
    const when = even <= served ? "before" : "only after";
    return `${start} Training costs ${more} more, which is earned back ${when} the demand is served: at ${words.count(even)} tokens, ${words.share(even / served, 2)} of it.`;
  }

  function drawDemand() {
    const { best, settings: asked } = found;
    const curve = answers.demandCurve(base, found);
    const known = curve.parameters.filter((value) => value > 0);
    const ends = curve.band ? [...curve.band.low, ...curve.band.high].filter((value) => value > 0 && value < Infinity) : [];
    const [low, high] = [Math.min(...known, ...ends), Math.max(...known, ...ends)];
    const layers = [
      ...(curve.band ? [{ kind: "area", x: curve.few, ...curve.band, tone: "train", opacity: 0.2 }] : []),
      { kind: "line", x: curve.at, y: curve.parameters, tone: "train" },
      ...(isPlanned() ? [] : [{ kind: "marker", x: data.planned.serve_tokens, y: data.planned.parameters, tone: "soft", shape: "ring", label: "as planned", above: false }]),
      { kind: "marker", x: asked.serve_tokens, y: best.parameters, tone: "ink", label: `best ${words.count(best.parameters)}` },
    ];
    charts.draw($("demand-chart"), {
      title: "demand-title", caption: "demand-caption", height: CHART.demand, layers,
      x: sizeAxis([curve.at[0], curve.at[curve.at.length - 1]], "tokens served in its life"),
      y: sizeAxis([low / 1.3, high * 1.3]),
    });
    const fixed = asked.goal === "budget" ? (asked.budget === null ? "the deadline" : `a total budget of ${words.cost(asked.budget, base.unit)}`) : `a loss of ${best.loss.toFixed(3)}`;
    const cut = known.length < curve.at.length ? " The line ends where the budget no longer pays for serving." : "";
    const sure = curve.band ? ` Shaded: ${band()}.` : ` No band: ${data.draws_note}.`;
    say($("demand-caption"), `Parameters of the best model for ${fixed}: the more is served, the smaller it should be.${cut}${sure}`);
  }

  function drawEvidence() {
    const { frontier, runs, held_out: held, support, plan } = data.evidence;
    const losses = [...runs.loss_nats, ...held.measured, ...frontier.loss, ...(frontier.low ?? []), ...(frontier.high ?? []), plan.loss];
    const [least, most] = [Math.min(...losses), Math.max(...losses)];
    const flops = [...runs.train_flops, ...held.train_flops, ...frontier.train_flops, plan.train_flops];
    const edge = (most - least) * 0.06;
    const layers = [
      ...(support ? [{ kind: "span", from: support[0], to: support[1], tone: "range", label: "the law's runs" }] : []),
      ...(frontier.low ? [{ kind: "area", x: frontier.train_flops, low: frontier.low, high: frontier.high, tone: "train", opacity: 0.25 }] : []),
      { kind: "points", x: runs.train_flops, y: runs.loss_nats, tone: "soft", radius: 2.5, names: runs.run },
      { kind: "line", x: frontier.train_flops, y: frontier.loss, tone: "train", label: "best split, by the law", at: 0.35 },
      { kind: "points", x: held.train_flops, y: held.measured, tone: "rival", radius: 4.5, hollow: true, names: held.run },
      { kind: "marker", x: plan.train_flops, y: plan.loss, tone: "ink", label: "this plan" },
    ];
    charts.draw($("fit-chart"), {
      title: "fit-title", caption: "fit-caption", height: CHART.fit, layers,
      x: { domain: [Math.min(...flops) / 1.6, Math.max(...flops) * 3], log: true, name: "training FLOPs", format: (value) => words.flops(value, 1) },
      y: { domain: [least - edge, most + edge], name: "loss, nats a token", format: (value) => value.toFixed(value < 10 ? 2 : 1) },
    });
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
    $("command").textContent = ["llama-scale plan", ...commandWords()].join(" ");
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
  drawEvidence();
  change(() => (settings = fromAddress()));
  watchScreen();

  // For tests and for whoever opens the console: what the page knows, and the same closed forms.
  window.llamaScale = {
    timing,
    settings: () => ({ ...settings }),
    set: (changed) => change(() => Object.entries(changed).forEach(([name, value]) => (name === "goal" ? (settings.goal = value) : assign(settings, name, value)))),
    answer: () => ({ ...found.best, rival: found.rival, even: found.even ?? null, ranges: found.rival && answers.cheapRanges(base, found) }),
    modelAt: (parameters, tokens) => model.modelAt(found.problem, parameters, tokens),
  };
})();
