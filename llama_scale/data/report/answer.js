// From settings to everything that the page shows: the best model, its rival, ranges, bands and curves.
"use strict";

const answers = (() => {
  const { STEP } = model;
  const EXCESSES = [0.01, 0.05];
  const REACH = 36; // places of the grid each way in which draws have their best: a factor of 11
  const NEAR = 12; // and between one demand and the next
  const DEMANDS = 49;
  const WIDTH = 100; // times less and more demand
  const BAND_DEMANDS = 9;

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
      plainFamily: model.familyOf(problem.plain_family),
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
    const found = { problem, objective, best, unit: base.unit, settings, costs };
    if (!Number.isFinite(best.tokens)) return { ...found, rival: null };
    const equal = { fixed: "loss", value: best.loss * (1 + 1e-12) };
    const alone = { ...model.withoutServing(problem), limits: { ...problem.limits, parameters: Infinity, flops: Infinity } };
    const rival = model.describe(problem, model.best(alone, equal));
    return { ...found, rival, even: breakEven(best, rival, settings, base.unit), equal };
  }

  // Served tokens from which the best is the cheaper of the two; null where there is no such demand.
  function breakEven(best, rival, settings, unit) {
    const served = settings.serve_tokens;
    if (!served) return null;
    const [ours, theirs] = [best.cost[unit], rival.cost[unit]];
    const at = (ours.train - theirs.train) / ((theirs.serve - ours.serve) / served);
    return Number.isFinite(at) && at > 0 ? at : null;
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

  // Lifetime cost of every size at the quality of the best, with the band of the draws.
  function costCurve(base, found, reach) {
    const { best, equal, costs, settings, problem } = found;
    const middle = indexOf(base, best.parameters);
    const places = base.family.grid.slice(Math.max(0, middle - reach), middle + reach + 1).map(({ index }) => index);
    const tokens = places.map((i) => model.tokensFor(problem, equal, base.family.grid[i]));
    const train = places.map((i, place) => costs.train[i] * tokens[place]);
    const serve = places.map((i) => (settings.serve_tokens ? costs.serve[i] * settings.serve_tokens : 0));
    const total = train.map((value, place) => value + serve[place]);
    const band = bandOf(thinned(base, found, 2), places.length, base.level, (drawn) => {
      const needed = drawn.tokensFor(drawn.law.loss(best.parameters, best.tokens) * (1 + 1e-12));
      return (place) => costs.train[places[place]] * needed(places[place]) + serve[place];
    });
    return { parameters: places.map((i) => base.family.grid[i].parameters), train, serve, total, band };
  }

  // Every so many of the laws: of those that are slow to ask a quarter, and while a control moves a third.
  function thinned(base, found, every = 1) {
    const whole = every * (found.isMoving ? 3 : 1);
    return base.drawnOnGrid.filter((law, i) => i % (law.isSlow ? 4 * whole : whole) === 0);
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

  // laws/spread.py: the two quantiles that cut equal tails off, interpolated.
  function tails(values, level) {
    const ordered = Float64Array.from(values).sort();
    return [(1 - level) / 2, (1 + level) / 2].map((part) => {
      const place = part * (ordered.length - 1);
      const below = Math.floor(place);
      const next = ordered[Math.min(below + 1, ordered.length - 1)];
      return ordered[below] + (place - below) * (next - ordered[below]);
    });
  }

  // The smallest and largest sizes that cost at most (1 + excess) times the least, at equal quality.
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

  // How far from `from` one can go with `holds` still true: in strides, then by halves.
  function farthest(holds, from, way) {
    let inside = from;
    let stride = STEP;
    while (Math.abs(inside - from) < 5 && holds(inside + way * stride)) inside += way * stride;
    for (let i = 0; i < 14; i++) {
      stride /= 2;
      if (holds(inside + way * stride)) inside += way * stride;
    }
    return inside;
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
    const most = isBudget && drawn.law.bestTokens && (limits.flops < Infinity || limits.parameters < Infinity);

    function tokensAt(i) {
      if (grid[i].parameters > limits.parameters) return NaN;
      const allowed = limits.flops / grid[i].train;
      if (!isBudget) return needed(i) <= allowed ? needed(i) : NaN;
      const left = objective.value - (served ? costs.serve[i] * served : 0);
      const tokens = Math.min(left / costs.train[i], allowed);
      return most ? Math.min(tokens, drawn.law.bestTokens(grid[i].parameters)) : tokens;
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
    const shift = at > first && at < last ? lowestShift(valueAt(at - 1), least, valueAt(at + 1)) : 0;
    return { index: at, parameters: between(grid[at].parameters, shift), tokens: between(tokensAt(at), shift, tokensAt(at + Math.sign(shift))) };

    function between(here, part, next = grid[at + Math.sign(part)].parameters) {
      return part && next > 0 ? here * (next / here) ** Math.abs(part) : here;
    }
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
      .map((drawn) => bestBetween(base, found, drawn, settings.serve_tokens, middle - REACH, middle + REACH))
      .filter((one) => one !== null);
    if (!reached.length) return null;
    return {
      parameters: tails(reached.map((one) => one.parameters), base.level),
      tokens: tails(reached.map((one) => one.tokens), base.level),
    };
  }

  // The best size for demands a hundred times less to a hundred times more, with a band of fewer of them.
  function demandCurve(base, found) {
    const demand = found.settings.serve_tokens || found.best.tokens;
    const at = Array.from({ length: DEMANDS }, (_, i) => demand * WIDTH ** ((2 * i) / (DEMANDS - 1) - 1));
    const from = indexOf(base, found.best.parameters);
    const parameters = follow(base, found, base.ownOnGrid, at, from);
    const every = (DEMANDS - 1) / (BAND_DEMANDS - 1);
    const few = at.filter((_, i) => i % every === 0);
    const band = bandOf(thinned(base, found, 4), few.length, base.level, (drawn) => {
      const sizes = follow(base, found, drawn, few, from);
      return (i) => sizes[i];
    });
    return { at, parameters, few, band };
  }

  // The best sizes along demands, each looked for near the one before, from the middle both ways.
  function follow(base, found, drawn, demands, start) {
    const sizes = new Array(demands.length).fill(NaN);
    const middle = (demands.length - 1) / 2;
    const walk = (from, to, way) => {
      let [centre, reach] = [start, REACH];
      for (let i = from; i !== to; i += way) {
        const here = bestBetween(base, found, drawn, demands[i], centre - reach, centre + reach);
        if (here === null) continue;
        [sizes[i], centre] = [here.parameters, here.index];
        reach = NEAR;
      }
    };
    walk(middle, -1, -1);
    walk(middle + 1, demands.length, 1);
    return sizes;
  }

  return { cheapRanges, costCurve, demandCurve, intervals, objectiveOf, prepare, solve };
})();
