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
  for (const column of columns) {
    const head = element("th", column, "text");
    head.scope = "col";
    row.append(head);
  }
  const body = table.createTBody();
  for (const values of rows) {
    const line = body.insertRow();
    for (const value of values) line.append(element("td", number(value), typeof value === "number" ? "" : "text"));
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

// cost(m, n) of a profile's model, for all m ≤ longest and n; see docs/profiles.md.
function costFunction(model, longest) {
  const c = model.coefficients, p = model.roofline_exponent;
  if (model.form === "bilinear") return (m, n) => c[0] * m + c[1] * n + c[2] * m * n;
  const prefill = (x) => (c[0] ** p + (c[1] * x + c[2] * x * x) ** p) ** (1 / p);
  const decode = model.kv_cache ? (x) => c[3] + c[4] * x : prefill;
  const sums = new Float64Array(longest + 1);
  for (let x = 1; x <= longest; x++) sums[x] = sums[x - 1] + decode(x);
  return (m, n) => prefill(m) + sums[m + n - 1] - sums[m];
}

function refusal(small, large) {
  const faults = [];
  for (const [field, words] of [["model", "models"], ["kv_cache", "cache modes"], ["batch_size", "batch sizes"], ["dtype", "precisions"]])
    if (small[field] !== null && large[field] !== null && small[field] !== large[field]) faults.push(`different ${words} (${small[field]}, ${large[field]})`);
  if (!small.energy || !large.energy) faults.push("one has no energy");
  else {
    if (small.components.join("+") !== large.components.join("+")) faults.push(`different boundaries (${small.components.join("+")}, ${large.components.join("+")})`);
    if ((small.method === "estimated") !== (large.method === "estimated")) faults.push("an estimated energy is set against a measured one");
  }
  return faults;
}

// Totals for every threshold: index i sends inputs up to thresholds[i] to the small system.
function curve(small, large, workload, weight) {
  // Each input length with its outputs; where the two lengths are independent, all share the same outputs.
  const groups = workload.pairs || workload.inputs.map(([m, count]) => [m, count, workload.outputs]);
  const longest = groups.reduce((most, [m, , outputs]) => Math.max(most, m + outputs[outputs.length - 1][0]), 0);
  const functions = [small, large].map((s) => [costFunction(s.energy, longest), costFunction(s.runtime, longest)]);
  const perInput = groups.map(([m, count, outputs]) => {
    const all = outputs.reduce((sum, e) => sum + e[1], 0);
    return functions.map((pair) => pair.map((f) => (count / all) * outputs.reduce((sum, [n, k]) => sum + k * f(m, n), 0)));
  });
  const total = (s, q) => perInput.reduce((sum, e) => sum + e[s][q], 0);
  const alone = [0, 1].map((s) => [total(s, 0), total(s, 1)]);
  let [energy, runtime] = alone[1];
  const points = [{ threshold: 0, energy, runtime }];
  groups.forEach(([m], i) => {
    energy += perInput[i][0][0] - perInput[i][1][0];
    runtime += perInput[i][0][1] - perInput[i][1][1];
    points.push({ threshold: m, energy, runtime });
  });
  const cost = (e, r) => (weight * e) / alone[1][0] + ((1 - weight) * r) / alone[1][1];
  let best = 0;
  points.forEach((point, i) => { if (cost(point.energy, point.runtime) < cost(points[best].energy, points[best].runtime) - 1e-12) best = i; });
  return { points, best, alone };
}

function explorer() {
  const systems = data.systems;
  for (const [id, chosen] of [["small", data.chosen[0]], ["large", data.chosen[1]]]) {
    systems.forEach((system, i) => at(id).append(new Option(system.name + (system.method === "estimated" ? " (energy estimated)" : ""), i)));
    at(id).value = chosen;
  }
  data.workloads.forEach((workload, i) => at("workload").append(new Option(workload.name, i)));
  let found = null;
  function refresh(jump) {
    const small = systems[at("small").value], large = systems[at("large").value], weight = Number(at("weight").value);
    at("weight-value").textContent = weight.toFixed(2);
    const faults = refusal(small, large), mixed = at("mixed").checked && small.energy && large.energy;
    at("refusal").textContent = faults.length ? `${mixed ? "mixed" : "not comparable"}: ${faults.join("; ")}` : "";
    at("answer").replaceChildren();
    at("doubt").textContent = "";
    if (faults.length && !mixed) { found = null; at("threshold-value").textContent = "—"; Plotly.purge(at("curve")); return; }
    found = curve(small, large, data.workloads[at("workload").value], weight);
    at("threshold").max = found.points.length - 1;
    if (jump) at("threshold").value = found.best;
    const errors = [small, large].map((s) => `${s.name} ${(100 * s.held_out_energy).toFixed(1)} %`).join(", ");
    const guessed = [small, large].filter((s) => s.method === "estimated").map((s) => s.name).join(" and ");
    at("doubt").textContent = (guessed ? `Energy of ${guessed} is estimated, not measured. ` : "") + `Mean held-out error of the energy models: ${errors}. A saving of less is doubtful; joulebench threshold gives its 95 % interval.`;
    show();
  }
  function show() {
    if (!found) return;
    const i = Math.min(Number(at("threshold").value), found.points.length - 1), here = found.points[i], best = found.points[found.best];
    at("threshold-value").textContent = here.threshold;
    const kWh = (j) => j / 3.6e6, hours = (s) => s / 3600, saving = (e) => 100 * (1 - e / found.alone[1][0]);
    const rows = [[`split at T = ${here.threshold}`, here.energy, here.runtime], [`best split, T = ${best.threshold}`, best.energy, best.runtime],
      ["small alone", ...found.alone[0]], ["large alone", ...found.alone[1]]];
    at("answer").replaceChildren();
    fillTable(at("answer"), ["plan", "energy, kWh", "runtime, h", "energy saved against the large one, %"], rows.map(([name, e, r]) => [name, kWh(e), hours(r), saving(e)]));
    const { axis, layout } = theme(), shown = found.points.filter((point) => point.threshold > 0);
    const line = { x: shown.map((p) => p.threshold), y: shown.map((p) => kWh(p.energy)), mode: "lines", line: { color: COLOURS[0] }, hovertemplate: "T = %{x}: %{y:.5g} kWh<extra></extra>" };
    const mark = { x: [Math.max(here.threshold, 1)], y: [kWh(here.energy)], mode: "markers", marker: { size: 10, color: COLOURS[1] }, hoverinfo: "skip" };
    Plotly.react(at("curve"), [line, mark], { ...layout, xaxis: { ...axis, type: "log", tickvals: POWERS, title: { text: "T, input tokens" } }, yaxis: { ...axis, title: { text: "energy, kWh" } } }, { displayModeBar: false, responsive: true });
  }
  for (const id of ["small", "large", "workload", "mixed"]) at(id).addEventListener("change", () => refresh(true));
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
