// Numbers as words, as llama_scale/quantities.py writes them: 7.24B, $2.31M, 1e24 FLOPs, 40%.
"use strict";

const words = (() => {
  const SUFFIXES = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]];

  function digits(value, count = 3) {
    const short = Number(value.toPrecision(count));
    if (short !== 0 && (Math.abs(short) >= 1e15 || Math.abs(short) < 1e-4)) {
      return short.toExponential().replace("+", "");
    }
    const [whole, part] = String(short).split("."); // toLocaleString takes a hundred times as long
    const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
    return part ? `${grouped}.${part}` : grouped;
  }

  function count(value, many = 3) {
    if (!Number.isFinite(value)) return "none";
    const short = Number(value.toPrecision(many));
    if (short >= 1e15) return digits(short, many);
    const [size, suffix] = SUFFIXES.find(([least]) => short >= least) ?? [1, ""];
    return digits(short / size, many) + suffix;
  }

  const usd = (value, many = 3) => (Number.isFinite(value) ? `$${count(value, many)}` : "no price");
  const flops = (value, many = 3) => (value === 0 ? "0" : Number(value.toPrecision(many)).toExponential().replace("+", ""));

  function cost(value, unit, many = 3) {
    if (unit === "usd") return usd(value, many);
    if (!Number.isFinite(value)) return "unknown";
    return unit === "flops" ? `${flops(value, many)} FLOPs` : `${count(value, many)} GPU-hours`;
  }

  const share = (value, many = 3) => `${digits(100 * value, many)}%`;

  // A share and the rest of the whole, which add to 100%: the smaller one to 2 digits.
  function split(value) {
    const smaller = Number((100 * Math.min(value, 1 - value)).toFixed(4));
    const decimals = smaller === 0 ? 0 : Math.max(0, 1 - Math.floor(Math.log10(smaller)));
    const first = Number((100 * value).toFixed(decimals));
    return [first, 100 - first].map((part) => `${Number(part.toFixed(decimals))}%`);
  }

  const range = ([low, high], format) => `${format(low)} to ${format(high)}`;

  // Shorter, for ticks.
  function amount(value, unit, many = 2) {
    if (unit === "flops") return flops(value, many);
    return unit === "usd" ? usd(value, many) : count(value, many);
  }

  const axis = { flops: "FLOPs", usd: "dollars", gpu_hours: "GPU-hours" };

  return { amount, axis, cost, count, digits, flops, range, share, split, usd };
})();
