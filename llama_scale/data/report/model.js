// The closed forms of a plan, as llama_scale/planning, laws and costs have them: each function names its
// twin there, and tests/test_report_browser.py compares the two. Plain numbers in, plain numbers out; what
// is impossible is NaN.
"use strict";

const model = (() => {
  const SEARCH = { smallest: 1e4, largest: 1e15, coarse: 640, points: 129, rounds: 3 };
  const LOW = Math.log(SEARCH.smallest) - 3;
  const HIGH = Math.log(SEARCH.largest) + 3;
  const STEP = (HIGH - LOW) / (SEARCH.coarse - 1);
  const WIDEST = 60; // in log D
  const NEAR = 1e-9; // of log D: laws with a penalty are asked for many sizes

  function linspace(low, high, count) {
    const step = (high - low) / (count - 1);
    return Float64Array.from({ length: count }, (_, i) => (i === count - 1 ? high : i * step + low));
  }

  // Where Newton's steps from a place come to rest, within `near` of it.
  function newton(step, from, near = 1e-14) {
    let x = from;
    for (let i = 0; i < 60; i++) {
      const change = step(x);
      x -= change;
      if (!(Math.abs(change) > near * Math.max(1, Math.abs(x)))) break;
    }
    return x;
  }

  // A function that keeps what it made by key, `most` at a time: what most controls leave as it is.
  function remembered(most, make) {
    const known = new Map();
    return (key, ...asked) => {
      if (known.size > most) known.clear();
      if (!known.has(key)) known.set(key, make(...asked));
      return known.get(key);
    };
  }

  // np.interp over rising nodes: the ends' values beyond them.
  function interpolate(x, nodes, values) {
    const last = nodes.length - 1;
    if (!(x > nodes[0])) return x <= nodes[0] ? values[0] : NaN;
    if (x >= nodes[last]) return values[last];
    let low = 0;
    let high = last;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (nodes[middle] <= x) low = middle;
      else high = middle;
    }
    return ((values[high] - values[low]) / (nodes[high] - nodes[low])) * (x - nodes[low]) + values[low];
  }

  // ---- laws: laws/forms.py, laws/repeated.py, planning/quantisation.py

  // repeated._worth: each repetition beyond `unique` is worth exp(-1 / decay) of the one before.
  function worth(amount, unique, decay) {
    const repeats = amount / unique - 1;
    return repeats > 0 ? unique - unique * decay * Math.expm1(-repeats / decay) : amount;
  }

  // repeated._needed, its inverse.
  function needed(value, unique, decay) {
    if (!(value > unique)) return value;
    const beyond = (value / unique - 1) / decay;
    return beyond < 1 ? unique - unique * decay * Math.log1p(-beyond) : NaN;
  }

  // ScalingLaw: L = E + (A N^-alpha + B D^-beta)^k. Of one size, whose share A N^-alpha is
  // `bySize`, `along` tells the loss above the floor at D and its slope in log D.
  function plainLaw({ E, A, B, alpha, beta, k }) {
    const room = (loss) => (loss > E ? Math.pow(loss - E, 1 / k) : NaN);
    return {
      E, A, B, alpha, beta, k, kind: "plain", room,
      loss: (n, d) => E + Math.pow(A * Math.pow(n, -alpha) + B * Math.pow(d, -beta), k),
      bySize: (n) => A * Math.pow(n, -alpha),
      along(bySize, d) {
        const falling = B * Math.pow(d, -beta);
        const whole = Math.pow(bySize + falling, k);
        return { whole, slope: (-k * beta * falling * whole) / (bySize + falling) };
      },
      tokensForLoss(loss, n) {
        const left = room(loss) - A * Math.pow(n, -alpha);
        return left > 0 ? Math.pow(left / B, -1 / beta) : NaN;
      },
      parametersForLoss(loss, d) {
        const left = room(loss) - B * Math.pow(d, -beta);
        return left > 0 ? Math.pow(left / A, -1 / alpha) : NaN;
      },
    };
  }

  // RepeatedDataLaw: the law of the effective N and D where only so many tokens are there.
  function repeatedLaw(fresh, { unique_tokens: unique, tokens_decay, parameters_decay }) {
    const { A, B, alpha, beta } = fresh;
    const balance = Math.log(alpha) + Math.log(A) - Math.log(beta) - Math.log(B);
    const matched = Math.exp((balance + beta * Math.log(unique)) / alpha);
    return {
      ...fresh, kind: "repeated", fresh,
      loss: (n, d) => fresh.loss(worth(n, matched, parameters_decay), worth(d, unique, tokens_decay)),
      bySize: (n) => fresh.bySize(worth(n, matched, parameters_decay)),
      along(bySize, d) {
        const effective = worth(d, unique, tokens_decay);
        const { whole, slope } = fresh.along(bySize, effective);
        const marginal = d > unique ? Math.exp((1 - d / unique) / tokens_decay) : 1;
        return { whole, slope: (slope * marginal * d) / effective };
      },
      tokensForLoss: (loss, n) =>
        needed(fresh.tokensForLoss(loss, worth(n, matched, parameters_decay)), unique, tokens_decay),
    };
  }

  // QuantisedLaw: what rounding the weights adds, scale D^b N^-a, on top.
  function quantisedLaw(trained, { scale, by_tokens: b, by_parameters: a }) {
    const penalty = (n, d) => scale * Math.pow(d, b) * Math.pow(n, -a);
    const loss = (n, d) => trained.loss(n, d) + penalty(n, d);
    const { A, B, E, alpha, beta, k } = trained;

    function bisected(rises) {
      let [low, high] = [0, WIDEST];
      for (let i = 0; i < 45; i++) {
        const middle = (low + high) / 2;
        if (rises(middle)) high = middle;
        else low = middle;
      }
      return Math.exp(low);
    }

    // So many tokens, or as many as are best where more of them raise the loss.
    function atMostBest(n, tokens) {
      const [bySize, rising] = [trained.bySize(n), penalty(n, 1)];
      const rises = (x) => trained.along(bySize, Math.exp(x)).slope + b * rising * Math.exp(b * x) > 0;
      return rises(Math.log(tokens)) ? Math.min(tokens, bestTokens(n, rises)) : tokens;
    }

    function bestTokens(n, rises) {
      if (trained.kind !== "plain") return bisected(rises);
      const bySize = A * Math.pow(n, -alpha);
      const start = Math.log(k * beta * B) - Math.log(b * penalty(n, 1));
      const root = newton((x) => {
        const falling = B * Math.exp(-beta * x);
        const value = start - (beta + b) * x + (k - 1) * Math.log(bySize + falling);
        return value / (-(beta + b) + ((1 - k) * beta * falling) / (bySize + falling));
      }, start / (beta + b), NEAR);
      return Math.exp(Math.min(root, WIDEST));
    }

    // The loss is convex in log D: from the tokens that would do without the penalty, which are too few,
    // Newton's steps stay short of the root, and pass the lowest loss only where there is none.
    function tokensForLoss(target, n) {
      const [bySize, rising] = [trained.bySize(n), penalty(n, 1)];
      const root = newton((x) => {
        const { whole, slope: falls } = trained.along(bySize, Math.exp(x));
        const added = rising * Math.exp(b * x);
        const slope = falls + b * added;
        return slope < 0 ? (E + whole + added - target) / slope : 0;
      }, Math.log(trained.tokensForLoss(target, n)), NEAR);
      const tokens = Math.exp(root);
      return loss(n, tokens) <= target * (1 + 1e-9) ? tokens : NaN;
    }

    return { ...trained, kind: "quantised", fresh: trained.fresh ?? trained, loss, atMostBest, tokensForLoss };
  }

  function lawOf(constants, { repetition, penalty }) {
    let law = plainLaw(constants);
    if (repetition) {
      const { tokens_decay, parameters_decay } = { ...repetition, ...pick(constants, repetition) };
      law = repeatedLaw(law, { unique_tokens: repetition.unique_tokens, tokens_decay, parameters_decay });
    }
    return penalty ? quantisedLaw(law, penalty) : law;
  }

  function pick(from, names) {
    return Object.fromEntries(Object.keys(names).filter((name) => name in from).map((name) => [name, from[name]]));
  }

  // ---- the continuum of sizes: planning/families.py

  // architecture.aspect_ratio: width over layers in the LLaMA family.
  function aspectRatio(parameters) {
    if (parameters >= 13e9) return Math.max(96, 128 - (26 * Math.log(parameters / 13e9)) / Math.log(5));
    return Math.min(128, Math.max(16, 128 * Math.pow(parameters / 6.7e9, 0.18)));
  }

  // architecture.usual_head_size: from a width on.
  const HEAD_SIZES = [[1024, 128], [384, 64], [192, 32], [96, 16], [0, 8]];
  function usualHeadSize(width) {
    return HEAD_SIZES.find(([least]) => !(width < least))[1];
  }

  const GRID = linspace(LOW, HIGH, SEARCH.coarse);
  const BODIES = linspace(LOW - 4, HIGH, 1024);
  const RATIOS = BODIES.map((x) => aspectRatio(Math.exp(x)));

  // A family turns a coordinate, which grows as the logarithm of the size, into what a model counts and costs.
  function familyOf({ flops, tables, context, vocabulary, kv_heads, head_size, stretch, layer_weights }) {
    function proportions(logBody) {
      const ratio = stretch * interpolate(logBody, BODIES, RATIOS);
      const width = Math.cbrt((Math.exp(logBody) * ratio) / layer_weights);
      return { width, layers: width / ratio };
    }

    function counts(logBody, copies) {
      const { width, layers } = proportions(logBody);
      return Math.exp(logBody) + (2 * layers + 1 + copies * vocabulary) * width;
    }

    const logs = BODIES.map((x) => Math.log(counts(x, tables)));
    const slopes = logs.slice(0, -1).map((value, i) => (logs[i + 1] - value) / (BODIES[1] - BODIES[0]));

    function body(parameters) {
      const wanted = Math.log(parameters);
      let x = interpolate(wanted, logs, BODIES);
      const slope = interpolate(wanted, logs.subarray(0, -1), slopes);
      for (let i = 0; i < 2; i++) x -= (Math.log(counts(x, tables)) - wanted) / slope;
      return x;
    }

    function shape(logBody) {
      const { width, layers } = proportions(logBody);
      return {
        weights: counts(logBody, 2),
        active: Math.exp(logBody) + vocabulary * width,
        layers,
        query: width,
        kv: kv_heads === null ? width : Math.min(width, kv_heads * (head_size ?? usualHeadSize(width))),
      };
    }

    function exact(x) {
      const { width, layers } = proportions(x);
      const [products, attention] = [2 * (Math.exp(x) + vocabulary * width), 4 * layers * width];
      const train = 3 * (products + attention * context);
      return { parameters: counts(x, tables), train, serve: products, attention, shape: shape(x) };
    }

    function sixND(x) {
      const parameters = Math.exp(x);
      return { parameters, train: 6 * parameters, serve: 2 * parameters, attention: 0, shape: shape(body(parameters)) };
    }

    const is6ND = flops === "6nd";
    const sizes = is6ND ? sixND : exact;
    const grid = Array.from(GRID, (x, index) => ({ ...sizes(x), x, index }));
    return { is6ND, sizes, grid, coordinate: is6ND ? Math.log : body };
  }

  // ---- the serving roofline: costs/roofline.py and costs/serving.py

  // Accelerator-seconds of one answer from a copy on `group` accelerators, and its batch; NaN where none.
  function onGroup(deployment, traffic, shape, group) {
    const { constants: c, weight_bytes: weightBytes } = deployment;
    const tensor = Math.min(group, deployment.node);
    const stages = Math.ceil(group / deployment.node);
    const held = traffic.read + traffic.written / 2;
    const stored = traffic.read / traffic.samples + traffic.written / 2;
    const cache = 2 * shape.layers * shape.kv * deployment.kv_bytes;
    const room = stages * tensor * (deployment.usable_memory * deployment.memory - deployment.reserved_bytes);
    const left = room - shape.weights * weightBytes;
    if (!(left >= cache * (traffic.read + traffic.written))) return { group, batch: NaN, seconds: NaN };
    const penalty = stages > 1 ? deployment.stage_penalty : 1;
    const bandwidth = tensor * deployment.bandwidth * c.bandwidth_share;
    const products = (2 * shape.active) / (tensor * deployment.peak);
    const perHeld = (4 * shape.layers * shape.query) / (tensor * deployment.peak16);
    const sent = (8 * shape.layers * shape.query * (tensor - 1)) / tensor;
    const exchange = deployment.link === null ? 0 : sent / (deployment.link * c.link_share);
    const prompt =
      penalty * traffic.read * ((products + (perHeld * traffic.read) / 2) / c.prefill_mfu + exchange);
    const fixed = penalty * ((shape.active * weightBytes) / bandwidth + c.layer_seconds * shape.layers);
    const work = (products + perHeld * held) / c.decode_mfu + exchange + c.sequence_seconds * shape.layers;
    const each = penalty * ((held * cache) / bandwidth + work);
    let batch = left / (cache * stored) / stages;
    if (deployment.time_per_output_token !== null) {
      const share = prompt / (traffic.samples * traffic.written);
      const most = (deployment.time_per_output_token - fixed + share) / (each + share);
      batch = Math.min(batch, atLeastOne(most));
    }
    if (deployment.time_to_first_token !== null) {
      batch = Math.min(batch, atLeastOne((deployment.time_to_first_token - fixed - prompt) / each));
    }
    if (!(batch > 0)) return { group, batch: NaN, seconds: NaN };
    const seconds = tensor * (prompt / traffic.samples + traffic.written * (fixed / batch + each));
    return { group, batch: (batch * group) / tensor, seconds };
  }

  function atLeastOne(batch) {
    return batch >= 1 ? batch : 0;
  }

  // serving.serve: the cheapest number of accelerators; seconds of one, fully used, for one token.
  function serve(deployment, traffic, shape) {
    let best = { seconds: NaN, batch: NaN, group: NaN };
    for (const group of deployment.groups) {
      const found = onGroup(deployment, traffic, shape, group);
      if (!(found.seconds >= best.seconds) && found.seconds > 0) best = found;
    }
    return { ...best, seconds: best.seconds / (traffic.read / traffic.samples + traffic.written) };
  }

  // Seconds of a token at every size of the grid.
  const secondsOnGrid = remembered(8, (deployment, traffic, family) =>
    family.grid.map((sizes) => serve(deployment, traffic, sizes.shape).seconds),
  );

  // ---- what a life costs: costs/economics.py, lifetime.py

  // Cost of one FLOP of training and of one served token's FLOP or second, by unit.
  function ratesOf(base, settings) {
    const { training, serving, demand } = base;
    const share = settings.read / (settings.read + demand.samples * settings.written);
    const trainHours =
      (1 + training.recomputed) / (training.peak_per_hour * settings.mfu * training.goodput);
    const slowness = share / serving.prefill_mfu + (1 - share) / serving.decode_mfu;
    const serveHours = slowness / (serving.peak_per_hour * settings.utilisation);
    const [price, servePrice] = [settings.price ?? NaN, settings.serve_price ?? NaN];
    return {
      flops: { train: demand.trainings, flop: 1, second: NaN },
      gpu_hours: { train: trainHours * demand.trainings, flop: serveHours, second: 1 / 3600 },
      usd: {
        train: trainHours * price * demand.train_factor,
        flop: serveHours * servePrice * demand.serve_factor,
        second: (servePrice * demand.serve_factor) / 3600,
      },
      hoursPerFlop: trainHours,
    };
  }

  // ---- the question: planning/optimum.py, search.py, closed_form.py

  function problemOf(base, settings, law) {
    const rates = ratesOf(base, settings);
    const { deployment } = base;
    const { samples } = base.demand;
    const traffic = { read: settings.read, written: Math.max(settings.written, 1), samples };
    const attended = attendedTokens(settings, samples);
    const byRoofline = deployment !== null && base.unit !== "flops";
    const request = `${traffic.read} ${traffic.written}`;
    const table = deployment === null ? null : secondsOnGrid(request, deployment, traffic, base.family);
    const seconds = (sizes) => {
      const { index = -1 } = sizes;
      return (index < 0 ? serve(deployment, traffic, sizes.shape).seconds : table[index]) / settings.utilisation;
    };
    const rate = rates[base.unit];

    function tokenCost(sizes, unit) {
      const byUnit = rates[unit];
      if (deployment === null || unit === "flops") {
        return byUnit.flop * (sizes.serve + sizes.attention * attended);
      }
      return byUnit.second * seconds(sizes);
    }

    const problem = {
      base, law, rates, request, seconds, byRoofline, rate,
      family: base.family,
      serveTokens: settings.serve_tokens,
      trainRate: rate.train,
      servingCost: (sizes) =>
        problem.serveTokens === 0 ? 0 : tokenCost(sizes, base.unit) * problem.serveTokens,
      cost: (sizes, tokens) => rate.train * sizes.train * tokens + problem.servingCost(sizes),
      tokenCost,
    };
    problem.limits = limitsOf(problem);
    return problem;
  }

  // Traffic.attended_tokens: what a token of a request attends to on average.
  function attendedTokens({ read, written }, samples) {
    const prompt = read / samples;
    return ((prompt * read) / 2 + written * (read + written / 2)) / (prompt + written);
  }

  function withoutServing(problem) {
    const limits = { ...problem.limits, servable: Infinity };
    const alone = { ...problem, serveTokens: 0, byRoofline: false, servingCost: () => 0, limits };
    alone.cost = (sizes, tokens) => alone.trainRate * sizes.train * tokens;
    return alone;
  }

  // serving.largest_servable: grids within grids find where size, growing, meets memory or latency.
  const largestServable = remembered(64, ({ family, seconds }) => {
    let low = family.coordinate(SEARCH.smallest);
    let high = family.coordinate(SEARCH.largest);
    for (let round = 0; round < 3; round++) {
      const x = linspace(low, high, 257);
      let last = -1;
      for (let i = x.length - 1; i >= 0 && last < 0; i--) {
        if (!Number.isNaN(seconds(family.sizes(x[i])))) last = i;
      }
      if (last < 0) return 0;
      if (last === x.length - 1) return family.sizes(x[last]).parameters;
      [low, high] = [x[last], x[last + 1]];
    }
    return family.sizes(low).parameters;
  });

  function limitsOf(problem) {
    const { rates, request } = problem;
    const { limits } = problem.base;
    const served = limits.must_be_servable ? largestServable(request, problem) : Infinity;
    return {
      flops: limits.deadline_hours === null ? Infinity : limits.deadline_hours / rates.hoursPerFlop,
      parameters: Math.min(served, limits.max_parameters ?? Infinity),
      servable: problem.byRoofline && problem.serveTokens ? largestServable(request, problem) : Infinity,
    };
  }

  // tokens_for: D that puts a size on the budget or at the loss; NaN where none does.
  function tokensFor(problem, objective, sizes) {
    const { law, limits } = problem;
    const allowed = limits.flops / sizes.train;
    if (sizes.parameters > limits.parameters * (1 + 1e-12)) return NaN;
    if (objective.fixed === "loss") {
      const tokens = law.tokensForLoss(objective.value, sizes.parameters);
      return tokens <= allowed * (1 + 1e-12) ? tokens : NaN;
    }
    const left = objective.value - problem.servingCost(sizes);
    let tokens = Math.min(left / (problem.trainRate * sizes.train), allowed);
    const isLimited = limits.flops < Infinity || limits.parameters < Infinity;
    if (law.atMostBest && isLimited) tokens = law.atMostBest(sizes.parameters, tokens);
    return tokens > 0 ? tokens : NaN;
  }

  function closedForm(problem, objective) {
    const { law, limits } = problem;
    const simple = problem.family.is6ND && !problem.byRoofline && law.kind === "plain";
    if (!simple || objective.value === Infinity) return null;
    const idle = (problem.serveTokens * problem.rate.flop) / (3 * problem.trainRate);
    let tokens;
    let parameters;
    if (objective.fixed === "budget") {
      const equivalent = objective.value / (6 * problem.trainRate);
      tokens = tokensOfLowestLoss(law, idle, equivalent);
      parameters = equivalent / (tokens + idle);
    } else {
      tokens = tokensOfLowestCost(law, idle, objective.value);
      parameters = law.parametersForLoss(objective.value, tokens);
    }
    const sizes = problem.family.sizes(Math.log(parameters));
    const isBeyond = sizes.train * tokens > limits.flops || sizes.parameters > limits.parameters;
    return isBeyond ? null : { sizes, tokens };
  }

  function logSum(a, b) {
    const most = Math.max(a, b);
    return most === -Infinity ? most : most + Math.log1p(Math.exp(Math.min(a, b) - most));
  }

  function tokensOfLowestLoss({ A, B, alpha, beta }, idle, equivalent) {
    const logIdle = Math.log(idle);
    const offset = Math.log((alpha * A) / (beta * B)) - alpha * Math.log(equivalent);
    let from = -offset / (alpha + beta);
    if (alpha < 1) from = Math.max(from, ((1 - alpha) * logIdle - offset) / (1 + beta));
    const root = newton((x) => {
      const sum = logSum(x, logIdle);
      const value = offset + (alpha - 1) * sum + (1 + beta) * x;
      return value / (1 + beta - (1 - alpha) * Math.exp(x - sum));
    }, from);
    return Math.exp(root);
  }

  function tokensOfLowestCost(law, idle, loss) {
    const { B, alpha, beta } = law;
    const logRoom = Math.log(law.room(loss));
    const training = Math.log((1 + beta / alpha) * B);
    const serving = Math.log((beta * B) / alpha) + Math.log(idle);
    const from = Math.max((training - logRoom) / beta, (serving - logRoom) / (beta + 1));
    const root = newton((x) => {
      const [first, second] = [training - beta * x, serving - (beta + 1) * x];
      const sum = logSum(first, second);
      return (sum - logRoom) / (-beta - Math.exp(second - sum));
    }, from);
    return Math.exp(root);
  }

  // search.minimise: a grid over all sizes, then over the sizes about its lowest point.
  function minimise(value, family, edges) {
    let centre = lowest(value, family.grid).x;
    const at = (x) => ({ ...family.sizes(x), x });
    if (edges.length) centre = lowest(value, [Number.isNaN(centre) ? edges[0] : centre, ...edges].map(at)).x;
    let half = STEP;
    const steps = linspace(-1, 1, SEARCH.points);
    let found = NO_SIZE;
    for (let round = 0; round < SEARCH.rounds; round++) {
      const [middle, width] = [centre, half];
      found = lowest(value, Array.from(steps, (part) => at(middle + width * part)));
      centre = found.x;
      half *= 2 / (SEARCH.points - 1);
    }
    return found;
  }

  const NO_SHAPE = { weights: NaN, active: NaN, layers: NaN, query: NaN, kv: NaN };
  const NO_SIZE = { x: NaN, parameters: NaN, train: NaN, serve: NaN, shape: NO_SHAPE };

  function lowest(value, candidates) {
    let found = NO_SIZE;
    let least = Infinity;
    for (const sizes of candidates) {
      const here = value(sizes);
      if (here < least) [found, least] = [sizes, here];
    }
    return found;
  }

  function edgesOf(problem, objective) {
    const { limits, family } = problem;
    const edges = [];
    if (limits.parameters < Infinity) {
      edges.push(family.coordinate(Math.min(limits.parameters, SEARCH.largest)));
    }
    const { servable } = limits;
    if (servable > 0 && servable < Infinity) edges.push(family.coordinate(servable));
    if (objective.fixed === "loss" && limits.flops < Infinity) {
      const alone = { ...withoutServing(problem), limits: NO_LIMITS };
      edges.push(family.coordinate(best(alone, objective).sizes.parameters));
    }
    return edges;
  }

  const NO_LIMITS = { flops: Infinity, parameters: Infinity, servable: Infinity };

  // optimum.best: the sizes and tokens of lowest loss on a budget, or of lowest cost at a loss.
  function best(problem, objective) {
    const found = closedForm(problem, objective);
    if (found !== null) return found;
    const { family, law } = problem;
    const value = (sizes) => {
      const tokens = tokensFor(problem, objective, sizes);
      if (Number.isNaN(tokens)) return NaN;
      return objective.fixed === "budget" ? law.loss(sizes.parameters, tokens) : problem.cost(sizes, tokens);
    };
    const sizes = minimise(value, family, edgesOf(problem, objective));
    return { sizes, tokens: Number.isNaN(sizes.x) ? NaN : tokensFor(problem, objective, sizes) };
  }

  // lifetime: what one model costs in every unit; dollars NaN without a price.
  function lifetime(problem, sizes, tokens) {
    const costs = {};
    for (const unit of ["flops", "gpu_hours", "usd"]) {
      const train = problem.rates[unit].train * sizes.train * tokens;
      const served = problem.serveTokens;
      const serving = served === 0 ? 0 : problem.tokenCost(sizes, unit) * served;
      costs[unit] = { train, serve: serving, total: train + serving };
    }
    return costs;
  }

  // A model of N parameters on D tokens: its loss and its costs.
  function modelAt(problem, parameters, tokens) {
    const sizes = problem.family.sizes(problem.family.coordinate(parameters));
    return describe(problem, { sizes, tokens });
  }

  function describe(problem, { sizes, tokens }) {
    const { parameters } = sizes;
    return {
      sizes, parameters, tokens,
      loss: problem.law.loss(parameters, tokens),
      cost: lifetime(problem, sizes, tokens),
    };
  }

  return {
    STEP, best, describe, familyOf, lawOf, modelAt, problemOf, tokensFor, withoutServing,
  };
})();
