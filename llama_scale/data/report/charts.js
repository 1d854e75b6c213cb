// SVG charts drawn from plain values: one function for axes and series, with labels on the lines themselves.
"use strict";

const charts = (() => {
  const { element, fill } = elements;
  const SMALLEST_GAP = 15; // pixels between labels, one above the other
  const BESIDE = 5; // and one beside the other
  const LETTER = 7; // a letter's width, in the widest of the fonts

  // ---- scales and ticks

  function scaleOf({ domain: [low, high], log }, from, to) {
    const place = log ? Math.log : (value) => value;
    const [a, b] = [place(low), place(high)];
    const scale = (value) => from + ((place(value) - a) / (b - a)) * (to - from);
    return Object.assign(scale, { ticks: (room) => (log ? logTicks(low, high, room) : ticks(low, high, room)) });
  }

  function ticks(low, high, room) {
    const rough = (high - low) / Math.max(1, room);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((part) => part * power).find((part) => part >= rough);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12); i++) found.push(i * step);
    return found;
  }

  function logTicks(low, high, room) {
    const decades = Math.log10(high / low);
    const parts = decades * 3 <= room ? [1, 2, 5] : decades * 2 <= room ? [1, 3] : [1];
    const every = Math.max(1, Math.ceil(decades / Math.max(1, room)));
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) + 1; power++) {
      if (parts.length === 1 && power % every) continue;
      for (const part of parts) {
        const value = part * 10 ** power;
        if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) found.push(value);
      }
    }
    return found;
  }

  // ---- paths

  const coordinate = (value) => value.toFixed(1);

  // A line through points, broken where one is not known; values far outside are cut at the frame.
  function path(points) {
    let pen = false;
    let text = "";
    for (const [x, y] of points) {
      if (!Number.isFinite(x) || !Number.isFinite(y)) {
        pen = false;
        continue;
      }
      text += `${pen ? "L" : "M"}${coordinate(x)} ${coordinate(y)}`;
      pen = true;
    }
    return text;
  }

  function area(x, low, high) {
    const known = x.map((_, i) => i).filter((i) => Number.isFinite(low[i]) && Number.isFinite(high[i]));
    if (!known.length) return "";
    const upper = known.map((i) => [x[i], high[i]]);
    const lower = known.map((i) => [x[i], low[i]]).reverse();
    return `${path([...upper, ...lower])}Z`;
  }

  // ---- the chart

  // Widths are asked for only when they may have changed: each question makes the browser lay the page out.
  const widths = new Map();
  function measure(into, given = into.clientWidth) {
    const width = Math.max(280, Math.round(given || 640));
    widths.set(into, width);
    return width;
  }

  // `into`: where it is drawn; `title`: id of its heading, `caption` of its description.
  function draw(into, { title, caption, height, x, y, layers }) {
    const width = widths.get(into) ?? measure(into);
    const frame = { left: 58, right: width - 14, top: 24, bottom: height - 42, width, height };
    const scales = { x: scaleOf(x, frame.left, frame.right), y: scaleOf(y, frame.bottom, frame.top) };
    const clip = `${into.id}-clip`;
    const [inside, above, labels, markers] = [[], [], [], []];
    for (const layer of layers) LAYERS[layer.kind](layer, { scales, frame, inside, above, labels, markers });
    settle(labels, markers, frame);
    const box = { x: frame.left, y: frame.top, width: frame.right - frame.left, height: frame.bottom - frame.top };
    const drawn = element(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": title, "aria-describedby": caption },
      element("defs", {}, element("clipPath", { id: clip }, element("rect", box))),
      element("g", {}, ...axes(scales, frame, x, y)),
      element("g", { "clip-path": `url(#${clip})` }, ...inside),
      element("g", {}, ...above),
      element("g", {}, ...labels.map(labelOf)),
    );
    fill(into, [drawn]);
  }

  function axes(scales, frame, x, y) {
    const [names, rules] = [[], []];
    for (const value of scales.y.ticks((frame.bottom - frame.top) / 45)) {
      const at = scales.y(value);
      rules.push([frame.left, at, frame.right, at]);
      names.push(text(y.format(value), { x: frame.left - 6, y: coordinate(at + 4), class: "tick", "text-anchor": "end" }));
    }
    for (const value of scales.x.ticks((frame.right - frame.left) / 62)) {
      const at = scales.x(value);
      const anchor = at > frame.right - 14 ? "end" : "middle";
      rules.push([at, frame.top, at, frame.bottom]);
      names.push(text(x.format(value), { x: coordinate(at), y: frame.bottom + 16, class: "tick", "text-anchor": anchor }));
    }
    const base = { x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom };
    const middle = (frame.left + frame.right) / 2;
    return [
      element("path", { class: "grid", d: rules.map(ruleOf).join("") }),
      element("line", { class: "axis", ...base }),
      text(y.name, { x: 2, y: 11, class: "name" }),
      text(x.name, { x: middle, y: frame.height - 6, class: "name", "text-anchor": "middle" }),
      ...names,
    ];
  }

  const ruleOf = ([x1, y1, x2, y2]) => path([[x1, y1], [x2, y2]]);

  const text = (words, attributes) => element("text", attributes, words);

  const LAYERS = {
    // A filled band between two curves.
    area({ x, low, high, tone, opacity }, { scales, inside }) {
      const d = area(Array.from(x, scales.x), Array.from(low, scales.y), Array.from(high, scales.y));
      inside.push(element("path", { class: `fill t-${tone}`, "fill-opacity": opacity, d }));
    },
    line({ x, y, tone, dashed, label, at = "end" }, { scales, frame, inside, labels }) {
      const points = Array.from(x, (value, i) => [scales.x(value), scales.y(y[i])]);
      const dash = dashed ? { "stroke-dasharray": "6 4" } : {};
      inside.push(element("path", { class: `line stroke t-${tone}`, ...dash, d: path(points) }));
      if (!label) return;
      const shown = points.filter(
        ([px, py]) => px >= frame.left && px <= frame.right && py >= frame.top && py <= frame.bottom,
      );
      if (!shown.length) return;
      const [px, py] = at === "end" ? shown[shown.length - 1] : shown[Math.floor(shown.length * at)];
      const place = at === "end" ? { x: px, anchor: "end" } : { x: px + 8, anchor: "start" };
      labels.push({ ...place, y: py - 8, words: label, tone });
    },
    // From one x to another, over the whole height.
    span({ from, to, tone, opacity = 0.12, label, about = [from, to] }, { scales, frame, inside, labels }) {
      const [left, right] = [scales.x(from), scales.x(to)].map((at) => clamp(at, frame.left, frame.right));
      if (!(right > left)) return;
      const box = { x: left, y: frame.top, width: right - left, height: frame.bottom - frame.top };
      inside.push(element("rect", { class: `fill t-${tone}`, "fill-opacity": opacity, ...box }));
      if (!label) return;
      const [first, last] = about.map(scales.x);
      labels.push({ x: (first + last) / 2, y: frame.top + 14, words: label, tone, anchor: "middle" });
    },
    // A vertical rule with a name.
    rule({ at, label }, { scales, frame, inside, labels }) {
      const x = scales.x(at);
      if (!(x >= frame.left - 1 && x <= frame.right + 1)) return;
      inside.push(element("line", { class: "guide", x1: x, x2: x, y1: frame.top, y2: frame.bottom }));
      labels.push({ x: x + 5, y: frame.bottom - 8, words: label, tone: "soft", anchor: "start" });
    },
    points({ x, y, tone, radius, hollow, names }, { scales, inside }) {
      Array.from(x).forEach((value, i) => {
        const [cx, cy] = [scales.x(value), scales.y(y[i])];
        if (!Number.isFinite(cx) || !Number.isFinite(cy)) return;
        const look = hollow
          ? { class: `stroke t-${tone}`, fill: "none", "stroke-width": 1.5 }
          : { class: `fill t-${tone}`, "fill-opacity": 0.55 };
        const named = names[i] ? [element("title", {}, names[i])] : [];
        inside.push(element("circle", { cx: coordinate(cx), cy: coordinate(cy), r: radius, ...look }, ...named));
      });
    },
    marker({ x, y, tone, label, shape = "circle", above: isAbove = true, anchor = "middle", lift: given, isFirst = false }, { scales, above, labels, markers, frame }) {
      const [cx, cy] = [scales.x(x), scales.y(y)];
      if (!Number.isFinite(cx) || !Number.isFinite(cy) || cx < frame.left - 1 || cx > frame.right + 1) return;
      if (cy < frame.top - 1 || cy > frame.bottom + 1) return;
      const look = { class: `fill t-${tone}` };
      const at = { cx: coordinate(cx), cy: coordinate(cy) };
      const made = {
        circle: () => [element("circle", { ...at, r: 5.5, ...look })],
        diamond: () => [element("path", { d: `M${at.cx} ${coordinate(cy - 7)}l7 7l-7 7l-7 -7Z`, ...look })],
        none: () => [],
        ring: () => [element("circle", { ...at, r: 6, class: `stroke t-${tone}`, fill: "none", "stroke-width": 2 })],
      };
      above.push(...made[shape]());
      if (shape !== "none") markers.push({ left: cx - 7, right: cx + 7, y: cy + 4 });
      const shift = { middle: 0, start: 10, end: -10 }[anchor];
      const beside = shape === "none" ? 4 : isAbove ? -12 : 22;
      const lift = given ?? (anchor === "middle" ? beside : 4);
      if (label) labels.push({ x: cx + shift, y: cy + lift, words: label, tone, anchor, isFirst });
    },
  };

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  function labelOf({ x, y, words, tone, anchor }) {
    return text(words, { x: coordinate(x), y: coordinate(y), class: `label t-${tone}`, "text-anchor": anchor });
  }

  // Keeps labels inside the frame and off each other and the markers: those that meet move up or down, the
  // nearest free way.
  function settle(labels, markers, frame) {
    const placed = [...markers];
    for (const label of [...labels].sort((a, b) => Boolean(b.isFirst) - Boolean(a.isFirst))) {
      const breadth = LETTER * label.words.length;
      const start = { start: 0, middle: -breadth / 2, end: -breadth }[label.anchor];
      const left = clamp(label.x + start, frame.left + 2, Math.max(frame.left + 2, frame.right - breadth));
      label.x = left - start;
      const meets = (y) =>
        placed.some((one) => Math.abs(one.y - y) < SMALLEST_GAP && left < one.right + BESIDE && left + breadth + BESIDE > one.left);
      const wanted = clamp(label.y, frame.top + 11, frame.bottom - 4);
      const tries = [0, 1, -1, 2, -2, 3, -3, 4, -4].map((step) => wanted + step * SMALLEST_GAP);
      const free = tries.find((y) => !meets(y) && y >= frame.top + 10 && y <= frame.bottom - 3);
      label.y = free ?? wanted;
      placed.push({ left, right: left + breadth, y: label.y });
    }
  }

  return { draw, measure };
})();
