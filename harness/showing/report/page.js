"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];

function element(name, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined && text !== null) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}
function number(value, digits = 4) {
  if (value === null || value === undefined) return "—";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 9 });
}
// Plotly reads a few tags in labels; names of models and machines must show as they are.
const literal = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function cards(place, groups) {
  for (const group of groups) {
    const card = element("div", null, "card");
    card.append(element("h3", group.title));
    const list = element("dl");
    for (const [label, value] of group.rows) list.append(element("dt", label), element("dd", value));
    card.append(list);
    place.append(card);
  }
}

function fillTable(table, columns, rows) {
  const row = table.createTHead().insertRow();
  columns.forEach((column, i) => {
    const head = element("th", column, typeof rows[0]?.[i] === "string" ? "text" : "");
    head.scope = "col";
    row.append(head);
  });
  const body = table.createTBody();
  for (const values of rows) {
    const line = body.insertRow();
    for (const value of values) line.append(element("td", number(value), typeof value === "string" ? "text" : ""));
  }
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
  const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true };
  return { axis, layout: { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 }, margin: { l: 60, r: 10, t: 34, b: 46 }, height: 300, showlegend: false } };
}
const POWERS = Array.from({ length: 21 }, (_, i) => 2 ** i);

const colourOf = (series) => COLOURS[series.source % COLOURS.length];

// A cross at the foot of the chart where a size failed; its words show on hover. Logarithmic axes take logarithms.
function failures(series) {
  return series.flatMap((one) => one.failures.map(([x, words]) => ({
    x: Math.log10(x), y: 0, yref: "paper", yanchor: "bottom", text: "✕", showarrow: false,
    font: { color: colourOf(one) }, hovertext: literal(`${x} tokens: ${words} (${one.name})`),
  })));
}

// All sizes, those that failed too, with a little room at both ends.
function range(series) {
  const sizes = series.flatMap((one) => [...one.x, ...one.failures.map(([x]) => x)]).map(Math.log10);
  return [Math.min(...sizes) - 0.1, Math.max(...sizes) + 0.1];
}

function drawSweep(place, chart) {
  const { axis, layout } = theme();
  const traces = chart.series.map((series) => {
    const colour = colourOf(series);
    return {
      x: series.x, y: series.y, name: literal(series.name), mode: "lines+markers", line: { color: colour, width: 1.5 },
      marker: { color: series.estimated ? "rgba(0,0,0,0)" : colour, line: { color: colour, width: 1.5 }, size: 7, symbol: series.source % 8 },
      error_y: { type: "data", array: series.half_width, color: colour, thickness: 1 },
      hovertemplate: `%{x} tokens: %{y:.4g}<extra>${literal(series.name)}</extra>`,
    };
  });
  const named = data.facts.length > 1 ? chart.series.length : 0;  // one line of the legend each
  Plotly.newPlot(place, traces, {
    ...layout, annotations: failures(chart.series), title: { text: literal(chart.title), font: { size: 13 } }, showlegend: named > 0, height: layout.height + 20 * named, margin: { ...layout.margin, b: layout.margin.b + 20 * named },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    xaxis: { ...axis, type: "log", range: range(chart.series), tickvals: POWERS, title: { text: literal(chart.x_label) } }, yaxis: { ...axis, type: "log", exponentformat: "none" },
  }, { displayModeBar: false, responsive: true });
}

function drawCharts() {
  const place = at("charts");
  place.replaceChildren(...data.absent.map((text) => element("p", text, "note")));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      drawSweep(entry.target, data.charts[Number(entry.target.dataset.at)]);
    }
  }, { rootMargin: "200px" });
  data.charts.forEach((chart, i) => {
    const box = element("div", null, "chart");
    box.dataset.at = i;
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `${chart.title} against ${chart.x_label}`);
    place.append(box);
    seen.observe(box);
  });
  window.addEventListener("beforeprint", () => place.querySelectorAll(".chart:empty").forEach((box) => drawSweep(box, data.charts[Number(box.dataset.at)])));
}

function trialTable() {
  const table = at("trials"), head = table.createTHead().insertRow(), body = table.createTBody();
  let order = { column: -1, up: true };
  const rows = data.trials.rows.map((values) => ({ values, text: values.join(" ").toLowerCase() }));
  function show() {
    const wanted = at("filter").value.toLowerCase();
    const shown = rows.filter((row) => row.text.includes(wanted));
    if (order.column >= 0) {
      const sign = order.up ? 1 : -1, column = order.column;
      shown.sort((a, b) => {
        const [x, y] = [a.values[column], b.values[column]];
        if (x === null || y === null) return (x === null) - (y === null);  // what was not measured comes last
        return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
      });
    }
    body.replaceChildren(...shown.map((row) => {
      const line = element("tr");
      for (const value of row.values) line.append(element("td", number(value), typeof value === "number" ? "" : "text"));
      return line;
    }));
    at("count").textContent = `${shown.length} of ${rows.length} trials`;
  }
  data.trials.columns.forEach((name, i) => {
    const cell = element("th"), button = element("button", name);
    cell.scope = "col";
    button.type = "button";
    button.addEventListener("click", () => {
      order = { column: i, up: order.column === i ? !order.up : true };
      [...head.cells].forEach((other, k) => (k === i ? other.setAttribute("aria-sort", order.up ? "ascending" : "descending") : other.removeAttribute("aria-sort")));
      show();
    });
    cell.append(button);
    head.append(cell);
  });
  at("filter").addEventListener("input", show);
  show();
}

// Every answer comes worked out, with its intervals; here it is looked up and drawn.
function explorer() {
  const { systems, workloads, key, weights, intervals, pairs, chosen } = data.explorer;
  for (const [id, first] of [["small", chosen[0]], ["large", chosen[1]]]) {
    systems.forEach((system, i) => at(id).append(new Option(system.name + (system.estimated ? " (energy estimated)" : ""), i)));
    at(id).value = first;
  }
  workloads.forEach((name, i) => at("workload").append(new Option(name, i)));
  let found = null, best = null;
  function refresh(jump) {
    const pair = pairs[at("small").value][at("large").value];
    found = pair.refusal ? pair : pair.answers[at("workload").value];
    const step = Math.round(at("weight").value * (weights.length - 1));
    at("weight-value").textContent = weights[step].toFixed(1);
    at("threshold-value").textContent = "—";
    at("refusal").textContent = found.refusal || pair.mark;
    at("doubts").replaceChildren(...found.warnings.map((text) => element("li", text)));
    at("words").textContent = "";
    at("answer").replaceChildren();
    at("intervals").replaceChildren();
    for (const id of ["threshold", "best"]) at(id).disabled = Boolean(found.refusal);
    at("curve").hidden = Boolean(found.refusal);
    if (found.refusal) return;
    best = found.best[step];
    at("threshold").max = found.threshold.length - 1;
    if (jump) at("threshold").value = best.at;
    at("words").textContent = best.words;
    fillTable(at("intervals"), ["best T against large", "value", "95 % from", "to"], intervals.map((name, i) => [name, ...best.intervals[i]]));
    show();
  }
  function show() {
    const { threshold, energy_kwh, runtime_h } = found, here = Math.min(at("threshold").value, threshold.length - 1), last = threshold.length - 1;
    at("threshold-value").textContent = number(threshold[here]);
    const saved = (i) => 100 * (1 - energy_kwh[i] / energy_kwh[0]);
    const plans = [[`split at T = ${threshold[here]}`, here], [`best split, T = ${threshold[best.at]}`, best.at], ["small alone", last], ["large alone", 0]];
    at("answer").replaceChildren();
    fillTable(at("answer"), ["plan", "energy, kWh", "runtime, h", "energy saved, %"], plans.map(([name, i]) => [name, energy_kwh[i], runtime_h[i], saved(i)]));
    const { axis, layout } = theme(), [, low, high] = best.intervals[intervals.length - 1];
    const plateau = { type: "rect", layer: "below", yref: "paper", y0: 0, y1: 1, x0: Math.max(low, threshold[1]), x1: Math.max(high, threshold[1]), fillcolor: COLOURS[5], opacity: 0.2, line: { width: 0 } };
    const line = { x: threshold.slice(1), y: energy_kwh.slice(1), mode: "lines", line: { color: COLOURS[0] }, hovertemplate: "T = %{x}: %{y:.5g} kWh<extra></extra>" };
    const mark = { x: [Math.max(threshold[here], threshold[1])], y: [energy_kwh[here]], mode: "markers", marker: { size: 10, color: COLOURS[1] }, hoverinfo: "skip" };
    Plotly.react(at("curve"), [line, mark], { ...layout, shapes: [plateau], xaxis: { ...axis, type: "log", tickvals: POWERS, title: { text: `T, ${key}` } }, yaxis: { ...axis, title: { text: "energy, kWh" } } }, { displayModeBar: false, responsive: true });
  }
  for (const id of ["small", "large", "workload"]) at(id).addEventListener("change", () => refresh(true));
  at("weight").addEventListener("input", () => refresh(true));
  at("threshold").addEventListener("input", show);
  at("best").addEventListener("click", () => refresh(true));
  at("explorer").addEventListener("submit", (event) => event.preventDefault());
  const first = new IntersectionObserver((entries) => { if (entries.some((e) => e.isIntersecting)) { first.disconnect(); refresh(true); } }, { rootMargin: "300px" });
  first.observe(at("explorer"));
  return () => refresh(false);
}

document.title = at("title").textContent = data.title;
at("subtitle").textContent = data.subtitle;
at("footer").textContent = data.footer;
at("warnings").append(...(data.warnings.length ? data.warnings.map((text) => element("li", text)) : [element("li", "none", "none")]));
cards(at("facts"), data.facts);
cards(at("energy"), data.energy);
fillTable(at("fits"), data.fits.columns, data.fits.rows);
trialTable();
drawCharts();
const redrawExplorer = explorer();
dark.addEventListener("change", () => { drawCharts(); redrawExplorer(); });
