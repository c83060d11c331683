"use strict";
// Charts as SVG, without a library: points with intervals, models with bands, ticks at 1-2-5.
// Colours are the page's own variables, so that dark mode and print need no redrawing.

const INK = "var(--ink)";
const HEIGHT = 270;
const PRINT_WIDTH = 340;  // half of an A4 or letter page between its margins
const drawn = new Map();  // by its figure, how to draw it again

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Ticks of a logarithmic axis at 1-2-5, at 1 alone where those are too many; of a short range like a linear axis's.
function logTicks(low, high, most) {
  const decades = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) decades.push(power);
  for (const [steps, each] of [[[1, 2, 5], 1], [[1, 3], 1], [[1], 1], [[1], 2], [[1], 3]]) {
    const found = decades.filter((power) => power % each === 0).flatMap((power) => steps.map((step) => Number(`${step}e${power}`)));
    const inside = found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
    if (inside.length >= 3 && inside.length <= most) return inside;
  }
  return linearTicks(low, high, most);
}

function linearTicks(low, high, most) {
  let power = Math.floor(Math.log10((high - low) / most));
  for (;; power += 1) {
    for (const step of [1, 2, 5]) {
      const size = Number(`${step}e${power}`), first = Math.ceil(low / size), last = Math.floor(high / size);
      if (last - first < most) return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * size).toPrecision(12)));
    }
  }
}

const tickText = (value) => value.toLocaleString("en", { maximumFractionDigits: 9 }).replace("-", "−");

function scale(low, high, from, to, log) {
  const of = log ? Math.log : (value) => value, start = of(low), width = of(high) - start;
  return (value) => from + ((of(value) - start) / width) * (to - from);
}

// From the least to the largest value with a little room; values of a logarithmic axis are above 0.
function extent(values, log) {
  const known = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  let low = Math.min(...known), high = Math.max(...known);
  if (log) {
    const room = Math.max((high / low) ** 0.05, 1.08);
    return [low / room, high * room];
  }
  if (low === high) [low, high] = [low - 1, high + 1];
  const room = (high - low) * 0.06;
  return [low - room, high + room];
}

const MARKERS = {
  o: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "^": "M0 -5L4.6 3.6H-4.6z", s: "M-3.7 -3.7H3.7V3.7H-3.7z",
  D: "M0 -5L5 0L0 5L-5 0z", v: "M0 5L4.6 -3.6H-4.6z", P: "M-1.6 -5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6z",
  X: "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0z",
};

function marker(series, x, y) {
  const colour = series.colour || INK;
  return svg("path", { d: MARKERS[series.marker] || MARKERS.o, transform: `translate(${x} ${y})`, fill: series.hollow ? "var(--paper)" : colour, stroke: colour, "stroke-width": 1.5, class: "marker" });
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// One system: its model with a band, faint beyond the sizes measured, then its points with their intervals.
function drawSeries(series, x, y, yLow, bottom) {
  const colour = series.colour || INK, group = svg("g", { class: series.faint ? "faint" : "own" });
  const stroke = { fill: "none", stroke: colour, "stroke-width": series.faint || series.dashed ? 1.5 : 2.5, "stroke-linejoin": "round", "stroke-dasharray": series.dashed ? "6 4" : null };
  if (series.model) {
    const band = series.model.filter(([, , low, , inside]) => inside && low !== null);
    if (band.length) {
      const upper = band.map(([at, , , high]) => [x(at), y(high)]);
      const lower = band.map(([at, , low]) => [x(at), y(Math.max(low, yLow))]);
      group.append(svg("path", { d: `${path([...upper, ...lower.reverse()])}z`, fill: colour, opacity: 0.13, class: "band" }));
    }
    const inside = series.model.filter((row) => row[4]).map(([at, value]) => [x(at), y(value)]);
    group.append(svg("path", { ...stroke, d: path(series.model.map(([at, value]) => [x(at), y(value)])), "stroke-width": 1.5, "stroke-dasharray": "2 4", opacity: 0.6 }));
    if (inside.length) group.append(svg("path", { ...stroke, d: path(inside) }));
  } else if (!series.apart) {
    group.append(svg("path", { ...stroke, d: path(series.points.map(([at, value]) => [x(at), y(value)])) }));
  }
  for (const [at, value, half] of series.points) {
    if (half) group.append(svg("path", { d: `M${x(at)} ${y(value + half)}V${y(Math.max(value - half, yLow))}`, stroke: colour, "stroke-width": 1.5 }));
    if (series.marker) group.append(marker(series, x(at), y(value)));
  }
  for (const [at] of series.failures || []) {
    group.append(svg("path", { d: "M-5 -5L5 5M-5 5L5 -5", transform: `translate(${x(at)} ${bottom - 9})`, stroke: colour, "stroke-width": 2, class: "failure" }));
  }
  return group;
}

function axes(plot, x, y, xTicks, yTicks, xLabel) {
  const { left, right, top, bottom } = plot;
  const lines = yTicks.map((tick) => svg("path", { d: `M${left} ${y(tick)}H${right}`, class: "grid" }));
  const texts = [
    ...yTicks.map((tick) => svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick))),
    ...xTicks.map((tick) => svg("text", { x: x(tick), y: bottom + 16, "text-anchor": "middle" }, tickText(tick))),
    svg("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, xLabel),
  ];
  const ticks = xTicks.map((tick) => svg("path", { d: `M${x(tick)} ${bottom}v4`, class: "grid" }));
  return [...lines, ...ticks, svg("path", { d: `M${left} ${top}V${bottom}H${right}`, class: "grid", fill: "none" }), ...texts];
}

// A figure of ``spec``: title, xLabel, series, logX and logY; diagonal, zero and shade (an x-range) where given.
function drawFigure(figure, spec, width) {
  const { series, logX = true, logY = true } = spec;
  const failed = series.flatMap((one) => (one.failures || []).map(([at]) => at));
  const models = series.flatMap((one) => one.model || []), points = series.flatMap((one) => one.points);
  let xs = [...points.map(([at]) => at), ...failed, ...models.map(([at]) => at)];
  let ys = [...points.flatMap(([, value, half]) => (logY ? [value, value + (half || 0), Math.max(value - (half || 0), value / 3)] : [value])), ...models.map(([, value]) => value), ...models.filter(([, value, , high, inside]) => inside && high !== null && high < 2 * value).map(([, , , high]) => high)];
  if (spec.zero) ys.push(0);
  if (spec.diagonal) xs = ys = [...xs, ...ys];
  const [xLow, xHigh] = extent(xs, logX), [yLow, yHigh] = ys.length ? extent(ys, logY) : [1, 10];
  const bottom = HEIGHT - 42, yTicks = (logY ? logTicks : linearTicks)(yLow, yHigh, 7);
  const left = 14 + 7 * Math.max(2, ...yTicks.map((tick) => tickText(tick).length)), right = width - 16;
  const plot = { left, right, top: 10, bottom };
  const x = scale(xLow, xHigh, left, right, logX), y = scale(yLow, yHigh, bottom, plot.top, logY);
  const xTicks = spec.xTicks?.length > 1 ? spec.xTicks : (logX ? logTicks : linearTicks)(xLow, xHigh, Math.max(3, Math.floor((right - left) / 46)));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", tabindex: 0, "aria-label": `${spec.title} against ${spec.xLabel}; the arrow keys read its points` });
  const shown = svg("svg", { x: left, y: plot.top, width: right - left, height: bottom - plot.top, viewBox: `${left} ${plot.top} ${right - left} ${bottom - plot.top}` });
  if (spec.shade) shown.append(svg("rect", { x: x(Math.max(spec.shade[0], xLow)), width: Math.max(2, x(Math.min(spec.shade[1], xHigh)) - x(Math.max(spec.shade[0], xLow))), y: plot.top, height: bottom - plot.top, fill: "var(--accent)", opacity: 0.15 }));
  if (spec.diagonal) shown.append(svg("path", { d: `M${x(xLow)} ${y(xLow)}L${x(xHigh)} ${y(xHigh)}`, stroke: "var(--soft)", "stroke-width": 1, "stroke-dasharray": "4 3" }));
  if (spec.zero) shown.append(svg("path", { d: `M${left} ${y(0)}H${right}`, stroke: "var(--soft)", "stroke-width": 1.5 }));
  // The first systems are the reader's own: they lie on top.
  shown.append(...[...series].reverse().map((one) => drawSeries(one, x, y, yLow, bottom)));
  picture.append(...axes(plot, x, y, xTicks, yTicks, spec.xLabel), shown);
  const targets = series.flatMap((one) => [
    ...one.points.map(([at, value, , words]) => ({ x: x(at), y: y(value), words: spec.named ? `${one.name}: ${words}` : words })),
    ...(one.failures || []).map(([at, words]) => ({ x: x(at), y: bottom - 9, words: spec.named ? `${one.name}: ${words}` : words })),
  ]).filter((target) => target.words);
  readable(picture, targets, width);
  figure.querySelector("svg")?.remove();
  figure.append(picture);
}

// Points tell their values to the pointer that is near, and to the arrow keys.
function readable(picture, targets, width) {
  let at = -1;
  const say = (target) => {
    const tip = document.getElementById("tip"), box = picture.getBoundingClientRect(), zoom = box.width / width;
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.words;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${window.scrollX + Math.max(4, Math.min(box.left + target.x * zoom + 10, room))}px`;
    tip.style.top = `${window.scrollY + box.top + target.y * zoom - tip.offsetHeight - 8}px`;
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect(), zoom = width / box.width;
    const far = (target) => Math.hypot(target.x - (event.clientX - box.left) * zoom, target.y - (event.clientY - box.top) * zoom);
    const near = targets.reduce((best, target) => (best && far(best) <= far(target) ? best : target), null);
    say(near && far(near) < 30 ? near : null);
  });
  picture.addEventListener("pointerleave", () => say(null));
  picture.addEventListener("blur", () => say(null));
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !targets.length) return;
    event.preventDefault();
    at = (at + step + targets.length) % targets.length;
    say(targets[at]);
  });
}

// Figures in a place, one for each spec, drawn again whenever their width changes and for paper.
function showFigures(place, specs) {
  for (const figure of place.children) drawn.delete(figure);
  place.replaceChildren(...specs.map((spec) => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = spec.title;
    figure.append(caption);
    drawn.set(figure, (width) => drawFigure(figure, spec, width));
    return figure;
  }));
  for (const figure of place.children) {
    drawn.get(figure)(figure.clientWidth || PRINT_WIDTH);
    widths.observe(figure);
  }
}

let printing = false;
const widths = new ResizeObserver((entries) => {
  if (printing) return;
  for (const { target } of entries) {
    const now = target.clientWidth, then = Number(target.querySelector("svg").getAttribute("viewBox").split(" ")[2]);
    if (now && now !== then) drawn.get(target)?.(now);
  }
});
window.addEventListener("beforeprint", () => {
  printing = true;
  for (const draw of drawn.values()) draw(PRINT_WIDTH);
});
window.addEventListener("afterprint", () => {
  printing = false;
  for (const [figure, draw] of drawn) draw(figure.clientWidth || PRINT_WIDTH);
});
