// The pictures of an answer and of its evidence: what to draw, where, and their captions.
"use strict";

const pictures = (() => {
  const { say } = elements;
  const $ = (id) => document.getElementById(id);
  const CHART = { cost: 330, even: 250, demand: 270, fit: 300 };

  const sizeAxis = (domain, name = "parameters") => ({ domain, log: true, name, format: (value) => words.count(value, 2) });
  const band = (base) => `the central ${words.share(base.level)} of the law's draws`;

  function costs({ data, base, found, isPlanned }) {
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
    const was = isPlanned ? null : data.planned;
    const isLate = curve.inTime.some((isKept, i) => !isKept && Number.isFinite(curve.total[i]));
    const layers = [
      { kind: "span", from: ranges[1].low, to: ranges[1].high, tone: "range", opacity: 0.12, label: "5%", about: [ranges[0].high, ranges[1].high] },
      { kind: "span", from: ranges[0].low, to: ranges[0].high, tone: "range", opacity: 0.2, label: "1%" },
      { kind: "area", x, low: zero, high: curve.train.map((value, i) => (Number.isFinite(curve.total[i]) ? value : NaN)), tone: "train", opacity: 0.35 },
      { kind: "area", x, low: curve.train, high: curve.total, tone: "serve", opacity: 0.4 },
      ...(curve.band ? [{ kind: "area", x, low: capped(curve.band.low), high: capped(curve.band.high), tone: "ink", opacity: 0.16 }] : []),
      ...(isLate ? [{ kind: "line", x, y: curve.total, tone: "ink", dashed: true }] : []),
      { kind: "line", x, y: curve.total.map((value, i) => (curve.inTime[i] ? value : NaN)), tone: "ink" },
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
    const flat = ranges.map(({ low, high }) => `${words.range([low, high], words.count)}`).join(" and ");
    const sure = curve.band
      ? `Grey: ${band(base)}, under each of which a size must be as good as the best size is there.`
      : `No band: ${data.draws_note}.`;
    say($("cost-caption"), `Every size, trained until it reaches a loss of ${best.loss.toFixed(4)}: training (blue) and serving (orange). Green: sizes within 1% and 5% of the least cost, ${flat}.${isLate ? LATE : ""} ${sure}`);
  }

  const LATE = " Dashed: sizes for whose training the deadline is too short.";

  // Names inside the two areas, where they are high enough to hold one.
  function stackNames(curve, best, least) {
    const beyond = curve.parameters.findIndex((value) => value > best.parameters * 1.25);
    const at = beyond < 0 ? curve.parameters.findLastIndex((value) => value < best.parameters / 1.25) : beyond;
    const [train, serve] = [curve.train[at], curve.serve[at]];
    const names = [];
    if (train > 0.12 * least) names.push({ kind: "marker", x: curve.parameters[at], y: train / 2, tone: "ink", label: "training", shape: "none" });
    if (serve > 0.12 * least) names.push({ kind: "marker", x: curve.parameters[at], y: train + serve / 2, tone: "ink", label: "serving", shape: "none" });
    return names;
  }

  function breakEven({ data, base, found, isPlanned }) {
    const { best, rival, unit, even, settings: asked } = found;
    $("even-figure").hidden = even === null;
    if (even === null) return;
    const served = asked.serve_tokens;
    const isSeen = even.is === "later" && (base.schedule || even.at < 4 * served);
    const life = answers.scheduleOf(base, asked, Math.max(1.1, isSeen ? (1.3 * even.at) / served : 0));
    const [mine, other] = [best, rival].map(({ cost }) => answers.spent(life, cost[unit]));
    const most = Math.max(...mine, ...other);
    const least = Math.min(mine[0], other[0]);
    const from = least > 0.6 * most ? least : 0; // what both have in common is not drawn
    const end = life.at[life.at.length - 1];
    const above = (values) => values.map((value) => value - from);
    const layers = [
      ...(base.schedule ? [] : [{ kind: "rule", at: served, label: isPlanned ? "planned demand" : "this demand" }]),
      { kind: "line", x: life.at, y: above(other), tone: "rival", dashed: true },
      { kind: "line", x: life.at, y: above(mine), tone: "train" },
    ];
    const names = [
      { x: end * 0.98, y: other[other.length - 1] - from, tone: "rival", label: `compute-optimal ${words.count(rival.parameters)}` },
      { x: end * 0.98, y: mine[mine.length - 1] - from, tone: "train", label: `best ${words.count(best.parameters)}` },
    ].sort((a, b) => b.y - a.y);
    names.forEach((name, i) => layers.push({ kind: "marker", shape: "none", anchor: "end", lift: i ? 20 : -10, ...name }));
    if (isSeen) {
      const y = interpolated(even.at, life.at, mine) - from;
      layers.push({ kind: "marker", x: even.at, y, tone: "ink", shape: "ring", label: `break-even ${moment(even.at, base)}`, above: false });
    }
    charts.draw($("even-chart"), {
      title: "even-title", caption: "even-caption", height: CHART.even, layers,
      x: base.schedule
        ? { domain: [0, end], name: "months", format: (value) => words.digits(value) }
        : { domain: [0, end], name: "tokens served", format: (value) => (value === 0 ? "0" : words.count(value, 2)) },
      y: {
        domain: [0, (most - from) * 1.05],
        name: from ? `${words.axis[unit]} beyond ${words.amount(from, unit, 4)}` : words.axis[unit],
        format: (value) => (value === 0 ? "0" : words.amount(value, unit)),
      },
    });
    const built = isPlanned && data.planned.break_even !== null ? builtText(data.planned, base) : "";
    say($("even-caption"), `Spent so far in ${words.axis[unit]}, against the compute-optimal model of the same loss. ${evenText(found, base)}${built}`);
  }

  // On a line through points whose x rise; the later of two at one place.
  function interpolated(x, xs, ys) {
    const last = Math.max(1, xs.findIndex((one) => one > x));
    const share = (x - xs[last - 1]) / (xs[last] - xs[last - 1]);
    return ys[last - 1] + share * (ys[last] - ys[last - 1]);
  }

  const moment = (at, { schedule }) => (schedule ? `${words.digits(at, 2)} months` : words.count(at));

  function evenText({ best, rival, unit, even, settings: asked }, base) {
    if (even.is === "same") return "The best model is that model: it has nothing to earn back.";
    if (even.is === "always") return "The best model has cost less from the first token on.";
    const more = `Training costs ${words.cost(best.cost[unit].train - rival.cost[unit].train, unit)} more`;
    if (even.is === "never") return `${more}, which is never earned back${base.schedule ? " within its life" : ""}.`;
    if (base.schedule) return `${more}, which is earned back after ${moment(even.at, base)}.`;
    const when = even.at <= asked.serve_tokens ? "before" : "only after";
    const share = words.share(even.at / asked.serve_tokens, 2);
    return `${more}, which is earned back ${when} the demand is served: at ${words.count(even.at)} tokens, ${share} of it.`;
  }

  // The model that the plan recommends is rounded to whole layers, and earns its training back elsewhere.
  function builtText({ recommended, break_even: at }, base) {
    const when = base.schedule ? `after ${moment(at, base)}` : `at ${words.count(at)} tokens`;
    return ` The recommended ${words.count(recommended)}, which can be built, earns its own back ${when}.`;
  }

  function demand({ data, base, found, isPlanned }) {
    const { best, settings: asked } = found;
    const curve = answers.demandCurve(base, found);
    const sizes = curve.parameters.filter((value) => value > 0);
    const ends = curve.band ? [...curve.band.low, ...curve.band.high].filter((value) => value > 0 && value < Infinity) : [];
    const [low, high] = [Math.min(...sizes, ...ends), Math.max(...sizes, ...ends)];
    const known = (values) => values.map((value) => (value < Infinity ? value : NaN));
    const capped = (values) => values.map((value) => Math.min(value, 100 * high)); // an endless size is a large one
    const layers = [
      ...(curve.band ? [{ kind: "area", x: curve.few, low: known(curve.band.low), high: capped(curve.band.high), tone: "train", opacity: 0.2 }] : []),
      { kind: "line", x: curve.at, y: curve.parameters, tone: "train" },
      ...(isPlanned ? [] : [{ kind: "marker", x: data.planned.serve_tokens, y: data.planned.parameters, tone: "soft", shape: "ring", label: "as planned", above: false }]),
      { kind: "marker", x: asked.serve_tokens, y: best.parameters, tone: "ink", label: `best ${words.count(best.parameters)}` },
    ];
    charts.draw($("demand-chart"), {
      title: "demand-title", caption: "demand-caption", height: CHART.demand, layers,
      x: sizeAxis([curve.at[0], curve.at[curve.at.length - 1]], "tokens served in its life"),
      y: sizeAxis([low / 1.3, high * 1.3]),
    });
    const fixed = asked.goal === "budget" ? (asked.budget === null ? "the deadline" : `a total budget of ${words.cost(asked.budget, base.unit)}`) : `a loss of ${best.loss.toFixed(3)}`;
    const cut = sizes.length < curve.at.length ? " The line ends where the budget no longer pays for serving." : "";
    const sure = curve.band ? ` Shaded: ${band(base)}.` : ` No band: ${data.draws_note}.`;
    say($("demand-caption"), `Parameters of the best model for ${fixed}: the more is served, the smaller it should be.${cut}${sure}`);
  }

  function evidence({ data }) {
    const { frontier, runs, held_out: held, support, plan } = data.evidence;
    const losses = [...runs.loss_nats, ...held.measured, ...frontier.loss, ...(frontier.low ?? []), ...(frontier.high ?? []), plan.loss];
    const [least, most] = [Math.min(...losses), Math.max(...losses)];
    const flops = [...runs.train_flops, ...held.train_flops, ...frontier.train_flops, plan.train_flops];
    const edge = (most - least) * 0.06;
    const digits = Math.min(6, Math.max(most < 10 ? 2 : 1, Math.ceil(-Math.log10((most - least) / 8))));
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
      y: { domain: [least - edge, most + edge], name: "loss, nats a token", format: (value) => value.toFixed(digits) },
    });
  }

  return { breakEven, costs, demand, evidence };
})();
