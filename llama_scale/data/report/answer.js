// From settings to everything that the page shows: the best model, its rival, ranges, bands and curves.
"use strict";

const answers = (() => {
  const { STEP } = model;
  const EXCESSES = [0.01, 0.05];
  const REACH = 36; // places of the grid each way in which draws have their best first looked for: six times
  const NEAR = 12; // and from one demand to the next, beside as many places as demand grew by
  const [FLAT_STEP, FLAT_STEPS, FLAT_STRIDE] = [0.0025, 2000, 16]; // in log N; each way, and gone at once
  const DEMANDS = 49;
  const SAME = 1e-3; // of N and D: nearer than anybody builds them
  const FAR = 1000; // times the demand: beyond, no break-even is looked for
  const WIDTH = 100; // times less and more demand
  const BAND_EVERY = 2; // of the demands has a band

  // Laws one by one from columns of draws; a column that is missing does not vary.
  function lawsOf(problem) {
    if (!problem.draws) return [];
    const names = Object.keys(problem.draws);
    const length = problem.draws[names[0]].length;
    return Array.from({ length }, (_, i) => {
      const drawn = Object.fromEntries(names.map((name) => [name, problem.draws[name][i]]));
      return model.lawOf({ ...problem.law.constants, ...drawn }, problem.law);
    });
  }

  // The problem as sent, made ready: its continuum and its laws.
  function prepare(problem) {
    const family = model.familyOf(problem.family);
    const base = {
      ...problem, family,
      ownLaw: model.lawOf(problem.law.constants, problem.law),
      isMatched: problem.match !== null,
    };
    base.ownOnGrid = onGrid(base, base.ownLaw);
    base.drawnOnGrid = lawsOf(problem).map((law) => onGrid(base, law));
    return base;
  }

  // What is fixed under a law: a model that is matched stands for the loss that the law expects of it.
  function objectiveOf(base, settings, law) {
    if (settings.goal === "budget") return { fixed: "budget", value: settings.budget ?? Infinity };
    if (base.isMatched && settings.target_loss === base.settings.target_loss) {
      const fresh = law.fresh ?? law;
      return { fixed: "loss", value: fresh.loss(base.match.parameters, base.match.tokens) };
    }
    return { fixed: "loss", value: settings.target_loss };
  }

  // The whole answer at some settings; `best.sizes.parameters` is NaN where no model does what is asked.
  function solve(base, settings) {
    const problem = model.problemOf(base, settings, base.ownLaw);
    const objective = objectiveOf(base, settings, base.ownLaw);
    const best = model.describe(problem, model.best(problem, objective));
    const costs = costsOnGrid(base, problem);
    const found = { problem, best, unit: base.unit, settings, costs };
    if (!Number.isFinite(best.tokens)) return { ...found, rival: null };
    const equal = { fixed: "loss", value: best.loss * (1 + 1e-12) };
    const alone = { ...model.withoutServing(problem), limits: { ...problem.limits, parameters: Infinity, flops: Infinity } };
    const rival = model.describe(problem, model.best(alone, equal));
    return { ...found, rival, even: breakEven(base, settings, best, rival), equal };
  }

  // ---- what has been spent by when: planning/curves.py, cost_over_time

  // Spending on a model by each time of the plan's schedule, in whose shares a life is trained and served.
  const spent = ({ trained, served }, { train, serve }) => trained.map((share, i) => share * train + served[i] * serve);

  // From when on the best is the cheaper of the two for good: `is` "later" (with `at`, on the schedule's
  // clock), "always", "never" within the schedule, or "same" where both are one model; null where nothing is
  // served, or the rival cannot be.
  function breakEven(base, settings, best, rival) {
    const [ours, theirs] = [best.cost[base.unit], rival.cost[base.unit]];
    if (!settings.serve_tokens || !Number.isFinite(theirs.serve)) return null;
    if (isSame(best.parameters, rival.parameters) && isSame(best.tokens, rival.tokens)) return { is: "same" };
    const schedule = scheduleOf(base, settings);
    const rivals = spent(schedule, theirs);
    const ahead = spent(schedule, ours).map((mine, i) => rivals[i] - mine);
    const last = ahead.findLastIndex((value) => !(value > 0));
    if (last < 0) return { is: "always" };
    if (last === ahead.length - 1) return { is: "never" };
    const { at } = schedule;
    const share = -ahead[last] / (ahead[last + 1] - ahead[last]);
    return { is: "later", at: at[last] + share * (at[last + 1] - at[last]) };
  }

  const isSame = (one, other) => Math.abs(one / other - 1) < SAME;

  // Months as planned; or served tokens, on to so many times the demand.
  function scheduleOf({ schedule }, { serve_tokens: demand }, demands = FAR) {
    return schedule ?? { at: [0, demands * demand], trained: [1, 1], served: [0, demands] };
  }

  // ---- laws and costs at the sizes of the grid, where only the tokens are left to know

  // A law at the grid's sizes: `value` falls and rises with the loss, `tokensFor` knows what is fixed. An
  // additive law keeps A N^-alpha of every size, so that a place costs one exponential.
  function onGrid(base, law) {
    const { grid } = base.family;
    if (law.kind !== "plain") {
      return {
        law, isSlow: true,
        value: (i, tokens) => law.loss(grid[i].parameters, tokens),
        tokensFor: (target) => (i) => law.tokensForLoss(target, grid[i].parameters),
      };
    }
    const { A, B, alpha, beta } = law;
    const bySize = Float64Array.from(grid, ({ parameters }) => A * Math.pow(parameters, -alpha));
    return {
      law, isSlow: false,
      value: (i, tokens) => bySize[i] + B * Math.exp(-beta * Math.log(tokens)),
      tokensFor: (target) => {
        const room = law.room(target);
        return (i) => (room > bySize[i] ? Math.exp(-Math.log((room - bySize[i]) / B) / beta) : NaN);
      },
    };
  }

  // What a token of training and a served token cost at every size of the grid, in the plan's unit.
  function costsOnGrid(base, problem) {
    const { grid } = base.family;
    const train = new Float64Array(grid.length);
    const serve = new Float64Array(grid.length);
    for (let i = 0; i < grid.length; i++) {
      train[i] = problem.trainRate * grid[i].train;
      serve[i] = problem.tokenCost(grid[i], base.unit);
    }
    return { train, serve };
  }

  const indexOf = (base, parameters) =>
    Math.round((base.family.coordinate(parameters) - base.family.grid[0].x) / STEP);

  // Lifetime cost of every size that is allowed, at the quality of the best, with the band of the draws. A
  // deadline bounds none of it: `inTime` tells which sizes keep it.
  function costCurve(base, found, reach) {
    const { best, equal, problem, settings } = found;
    const { limits } = problem;
    const unhurried = { ...problem, limits: { ...limits, flops: Infinity } };
    const sizes = sizesAbout(base, best.parameters, reach, limits.parameters);
    const tokens = sizes.map((size) => model.tokensFor(unhurried, equal, size));
    const train = sizes.map((size, i) => problem.trainRate * size.train * tokens[i]);
    const serve = sizes.map((size) => (settings.serve_tokens ? problem.servingCost(size) : 0));
    const total = train.map((value, i) => value + serve[i]);
    const inTime = sizes.map((size, i) => size.train * tokens[i] <= limits.flops * (1 + 1e-9));
    const band = bandOf(thinned(base, found), sizes.length, base.level, (drawn) => {
      const target = drawn.law.loss(best.parameters, best.tokens) * (1 + 1e-12);
      const needed = drawn.tokensFor(target);
      return (i) => {
        const { index, parameters, train: flops } = sizes[i];
        const trained = index === undefined ? drawn.law.tokensForLoss(target, parameters) : needed(index);
        return problem.trainRate * flops * trained + serve[i];
      };
    });
    return { parameters: sizes.map(({ parameters }) => parameters), train, serve, total, inTime, band };
  }

  // The grid about a size, no farther than the largest that is allowed, which then ends it.
  function sizesAbout(base, parameters, reach, largest) {
    const { family } = base;
    const middle = indexOf(base, parameters);
    const near = family.grid.slice(Math.max(0, middle - reach), middle + reach + 1);
    const allowed = near.filter((size) => size.parameters < largest);
    return allowed.length < near.length ? [...allowed, family.sizes(family.coordinate(largest))] : near;
  }

  // All of the laws; while a control moves a third, and of those that are slow to ask a twelfth.
  function thinned(base, found) {
    if (!found.isMoving) return base.drawnOnGrid;
    return base.drawnOnGrid.filter((law, i) => i % (law.isSlow ? 12 : 3) === 0);
  }

  // The central `level` of what laws say at each of `count` places; null without laws.
  function bandOf(laws, count, level, valuesUnder) {
    if (!laws.length) return null;
    const columns = Array.from({ length: count }, () => new Float64Array(laws.length));
    laws.forEach((law, j) => {
      const value = valuesUnder(law);
      for (let i = 0; i < count; i++) {
        const here = value(i);
        columns[i][j] = here < Infinity ? here : Infinity;
      }
    });
    const ends = columns.map((column) => tails(column, level));
    return { low: ends.map((end) => end[0]), high: ends.map((end) => end[1]) };
  }

  // laws/spread.py: the two quantiles that cut equal tails off, interpolated; endless where a tail is.
  function tails(values, level) {
    const ordered = Float64Array.from(values).sort();
    return [(1 - level) / 2, (1 + level) / 2].map((part) => {
      const place = part * (ordered.length - 1);
      const below = Math.floor(place);
      const [here, next] = [ordered[below], ordered[Math.min(below + 1, ordered.length - 1)]];
      return place > below && next > here ? here + (place - below) * (next - here) : here;
    });
  }

  // optimum.cheap_ranges: the smallest and largest sizes that cost at most (1 + excess) times the least, at
  // equal quality, of sizes as near to each other as there.
  function cheapRanges(base, found) {
    const { problem, best, equal, unit } = found;
    const least = best.cost[unit].total;
    return EXCESSES.map((excess) => {
      const limits = { ...problem.limits, flops: problem.limits.flops * (1 + excess + 1e-9) };
      const eased = { ...problem, limits };
      const isCheap = (x) => {
        const sizes = base.family.sizes(x);
        return problem.cost(sizes, model.tokensFor(eased, equal, sizes)) <= (1 + excess) * least * (1 + 1e-9);
      };
      const from = base.family.coordinate(best.parameters);
      const ends = [-1, 1].map((way) => base.family.sizes(farthest(isCheap, from, way)).parameters);
      return { excess, low: ends[0], high: ends[1] };
    });
  }

  // How far from `from` one can go with `holds` still true, in whole steps: by strides, then by halves.
  function farthest(holds, from, way) {
    const at = (steps) => from + way * FLAT_STEP * steps;
    let steps = 0;
    let stride = FLAT_STRIDE;
    while (steps < FLAT_STEPS && holds(at(steps + stride))) steps += stride;
    while ((stride /= 2) >= 1) if (holds(at(steps + stride))) steps += stride;
    return at(Math.min(steps, FLAT_STEPS));
  }

  // ---- the best of each of many questions, to a hundredth of the grid's step

  // The best size for `served` tokens under a law, from one place of the grid to another; null if none.
  function bestBetween(base, found, drawn, served, from, to) {
    const { costs, problem, settings } = found;
    const { grid } = base.family;
    const { limits } = problem;
    const objective = objectiveOf(base, settings, drawn.law);
    const isBudget = objective.fixed === "budget";
    const needed = isBudget ? null : drawn.tokensFor(objective.value);
    const isCapped = isBudget && drawn.law.atMostBest && (limits.flops < Infinity || limits.parameters < Infinity);

    function tokensAt(i) {
      if (grid[i].parameters > limits.parameters) return NaN;
      const allowed = limits.flops / grid[i].train;
      if (!isBudget) return needed(i) <= allowed ? needed(i) : NaN;
      const left = objective.value - (served ? costs.serve[i] * served : 0);
      const tokens = Math.min(left / costs.train[i], allowed);
      return isCapped ? drawn.law.atMostBest(grid[i].parameters, tokens) : tokens;
    }

    function valueAt(i) {
      const tokens = tokensAt(i);
      if (!(tokens > 0)) return Infinity;
      return isBudget ? drawn.value(i, tokens) : costs.train[i] * tokens + (served ? costs.serve[i] * served : 0);
    }

    const [first, last] = [Math.max(0, from), Math.min(grid.length - 1, to)];
    let at = -1;
    let least = Infinity;
    for (let i = first; i <= last; i++) {
      const here = valueAt(i);
      if (here < least) [at, least] = [i, here];
    }
    if (at < 0) return null;
    const isLargest = at + 1 < grid.length && grid[at + 1].parameters > limits.parameters;
    if (isLargest) return { index: at, parameters: limits.parameters, tokens: tokensAt(at) * (grid[at].parameters / limits.parameters) };
    const shift = at > first && at < last ? lowestShift(valueAt(at - 1), least, valueAt(at + 1)) : 0;
    return { index: at, parameters: between(grid[at].parameters, shift), tokens: between(tokensAt(at), shift, tokensAt(at + Math.sign(shift))) };

    function between(here, part, next = grid[at + Math.sign(part)].parameters) {
      return part && next > 0 ? here * (next / here) ** Math.abs(part) : here;
    }
  }

  // The same, looked for near a place first, and everywhere where that leads to the edge of what is near.
  function bestNear(base, found, drawn, served, centre, reach) {
    const here = bestBetween(base, found, drawn, served, centre - reach, centre + reach);
    if (here !== null && Math.abs(here.index - centre) < reach) return here;
    return bestBetween(base, found, drawn, served, 0, base.family.grid.length - 1);
  }

  // Where a parabola through three places is lowest, in steps from the middle one.
  function lowestShift(before, here, after) {
    const bend = before - 2 * here + after;
    const shift = bend > 0 && Number.isFinite(bend) ? (before - after) / (2 * bend) : 0;
    return Math.max(-0.5, Math.min(0.5, shift));
  }

  // Where the draws put the best: the central share of its size and tokens; null without draws.
  function intervals(base, found) {
    const { best, settings } = found;
    const middle = indexOf(base, best.parameters);
    const reached = thinned(base, found)
      .map((drawn) => bestNear(base, found, drawn, settings.serve_tokens, middle, REACH))
      .filter((one) => one !== null);
    if (!reached.length) return null;
    return {
      parameters: tails(reached.map((one) => one.parameters), base.level),
      tokens: tails(reached.map((one) => one.tokens), base.level),
    };
  }

  // The best size for demands a hundred times less to a hundred times more, with a band of half of them.
  function demandCurve(base, found) {
    const demand = found.settings.serve_tokens || found.best.tokens;
    const at = Array.from({ length: DEMANDS }, (_, i) => demand * WIDTH ** ((2 * i) / (DEMANDS - 1) - 1));
    const from = indexOf(base, found.best.parameters);
    const parameters = follow(base, found, base.ownOnGrid, at, from);
    const few = at.filter((_, i) => i % BAND_EVERY === 0);
    const band = bandOf(thinned(base, found), few.length, base.level, (drawn) => {
      const sizes = follow(base, found, drawn, few, from);
      return (i) => sizes[i];
    });
    return { at, parameters, few, band };
  }

  // The best sizes along demands, each looked for near the one before, from the middle both ways.
  function follow(base, found, drawn, demands, start) {
    const sizes = new Array(demands.length).fill(NaN);
    const middle = (demands.length - 1) / 2;
    const near = NEAR + Math.ceil(Math.log(demands[1] / demands[0]) / STEP);
    const walk = (from, to, way) => {
      let [centre, reach] = [start, REACH];
      for (let i = from; i !== to; i += way) {
        const here = bestNear(base, found, drawn, demands[i], centre, reach);
        if (here === null) continue;
        [sizes[i], centre] = [here.parameters, here.index];
        reach = near;
      }
    };
    walk(middle, -1, -1);
    walk(middle + 1, demands.length, 1);
    return sizes;
  }

  return { cheapRanges, costCurve, demandCurve, intervals, prepare, scheduleOf, solve, spent };
})();
