"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

function element(name, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined && text !== null) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

// Numbers as people read them: the twins of core/wording.py.
function decimals(value, digits) {
  if (!value || !Number.isFinite(value)) return 0;
  return digits - 1 - Number(Math.abs(value).toExponential(digits - 1).split("e")[1]);
}
function rounded(value, places) {
  const unit = 10 ** -places, whole = places < 0 ? Math.round(value / unit) * unit : value, shown = Math.max(places, 0);
  return whole.toLocaleString("en", { minimumFractionDigits: shown, maximumFractionDigits: shown });
}
const plain = (value, digits = 4) => rounded(value, Math.max(decimals(value, digits), 0));
const guessed = (value) => `≈ ${rounded(value, decimals(value, 2))}`;
function number(value) {
  if (value === null || value === undefined) return "—";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 9 });
}

// A number and its unit stay on one line.
const kept = (text) => text.replace(/([\d?≈]) (?=%|ms\b|s\b|J\b|W\b|kWh\b|±|\d)/g, "$1\u00a0").replace(/± /g, "±\u00a0");

function card(label, value, rest, ...notes) {
  const box = element("div", null, "card"), figure = element("p", value, "figure");
  figure.append(" ", element("span", kept(rest), "rest"));
  box.append(element("p", label), figure, ...notes.filter(Boolean).map((text) => element("p", kept(text), "note")));
  return box;
}

function showHeads() {
  document.title = data.title;
  const several = data.heads.length > 1;
  if (several) at("heads").append(element("h1", data.title));
  for (const head of data.heads) {
    const article = element("article", null, several ? "several" : ""), cards = element("div", null, "cards");
    article.append(element(several ? "h2" : "h1", head.title), element("p", several ? `${head.name} · ${head.subtitle}` : head.subtitle, "subtitle"));
    cards.append(...head.cards.map(({ label, value, rest, note }) => card(label, value, rest, note)));
    if (head.cards.length) article.append(cards);
    at("heads").append(article);
  }
  at("cautions").hidden = !data.cautions.length && !data.mark;
  if (data.mark) at("cautions").append(element("li", data.mark, "mark"));
  at("cautions").append(...data.cautions.map((text) => element("li", kept(text))));
  at("footer").textContent = data.footer;
}

function fillTable(table, columns, rows) {
  table.replaceChildren();
  const head = table.createTHead().insertRow(), body = table.createTBody();
  columns.forEach((column, i) => {
    const cell = element("th", column, typeof rows[0]?.[i] === "string" ? "text" : "");
    cell.scope = "col";
    head.append(cell);
  });
  for (const values of rows) {
    const line = body.insertRow();
    for (const value of values) line.append(element("td", number(value), typeof value === "string" ? "text" : ""));
  }
}

// Figures 1 and 2: which size varies, and whose published measurements stand behind.
function showSweeps() {
  const names = Object.keys(data.sweeps).filter((axis) => data.sweeps[axis].charts.length);
  at("figures").hidden = !names.length && !data.absent.length;
  names.forEach((axis, i) => {
    const label = element("label"), button = element("input");
    Object.assign(button, { type: "radio", name: "axis", value: axis, checked: i === 0 });
    label.append(button, ` ${axis} tokens`);
    at("axes").append(label);
  });
  const behind = names.flatMap((axis) => data.sweeps[axis].charts).flatMap((chart) => chart.series).filter((series) => series.of);
  for (const model of new Set(behind.map((series) => series.of))) at("published").append(new Option(model, model));
  at("behind").hidden = !behind.length;
  at("figures").querySelector("form").hidden = !names.length;
  function show() {
    const chosen = at("axes").querySelector("input:checked"), model = at("published").value;
    const { finding, label, charts } = chosen ? data.sweeps[chosen.value] : { finding: "", label: "", charts: [] };
    at("finding").textContent = finding && `${finding}.`;
    const specs = charts.map((chart) => ({
      title: `${chart.title}, ${chart.unit}`, xLabel: label,
      series: chart.series.filter((series) => !series.of || series.of === model).map((series) => ({ ...series, faint: Boolean(series.of) })),
    }));
    const shown = new Map(specs.flatMap((spec) => spec.series).map((series) => [series.name, series]));
    for (const spec of specs) spec.named = shown.size > 1;
    showFigures(at("sweeps"), specs);
    at("legend").replaceChildren(...(shown.size > 1 ? [...shown.values()].map(legendEntry) : []));
    const all = specs.flatMap((spec) => spec.series), kinds = [
      ["Vertical bars and bands are 95 % intervals of mean costs, bars of those measured, by these meters, bands of another day's, against a true meter.", all.some((one) => one.points.some(([, , half]) => half))],
      ["Dotted: the model beyond the sizes measured.", all.some((one) => one.model)],
      ["Hollow: energy is estimated, not measured.", all.some((one) => one.hollow)],
      ["Crosses: sizes that failed.", all.some((one) => one.failures.length)],
      [`Not comparable with the published systems: ${data.differing}.`, model && data.differing],
    ];
    at("figure-note").textContent = [...kinds.filter(([, holds]) => holds).map(([text]) => text), ...data.absent].join(" ");
  }
  at("figures").addEventListener("change", show);
  at("figures").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  show();
}

function legendEntry(series) {
  const entry = element("li"), colour = series.colour || INK;
  const sign = svg("svg", { viewBox: "0 0 28 12", "aria-hidden": "true", class: series.faint ? "faint" : "own" });
  sign.append(svg("path", { d: "M1 6H27", stroke: colour, "stroke-width": series.faint ? 1.5 : 2.5 }), marker({ ...series, hollow: false }, 14, 6));
  entry.append(sign, element("span", series.faint ? `${series.name} (published)` : series.name));
  return entry;
}

// Several requests in flight: charts against how many there are, and every point in a table.
function showLoads() {
  at("load").hidden = !data.load.length;
  for (const { name, finding, label, ticks, charts, note, tables } of data.load) {
    const part = element("div", null, "loaded"), legend = element("ul", null, "legend"), place = element("div", null, "charts");
    if (data.heads.length > 1) part.append(element("h3", name));
    if (finding) part.append(element("p", kept(`${finding}.`), "finding"));
    const sizes = new Map(charts.flatMap((chart) => chart.series).filter((series) => !series.dashed).map((series) => [series.name, series]));
    if (sizes.size > 1) legend.append(...[...sizes.values()].map(legendEntry));
    part.append(legend, place, element("p", note, "note"));
    at("loads").append(part);
    showFigures(place, charts.map(({ title, series }) => ({ title, xLabel: label, xTicks: ticks, series })));
    for (const { columns, rows, note: said } of tables) {
      const scroll = element("div", null, "scroll"), table = element("table", null, "numbers");
      Object.assign(scroll, { tabIndex: 0, ariaLabel: "Points under load" });
      scroll.setAttribute("role", "region");
      fillTable(table, columns, rows);
      scroll.append(table);
      part.append(scroll, element("p", said, "note"));
    }
  }
}

// A value between the sizes of a table, by the logarithms of both sizes. The table is Python's.
function costAt(table, m, n, tooFar) {
  const place = (axis, size) => {
    const i = Math.max(axis.findIndex((next) => next >= size), 0);
    if (i === 0 || axis[i] === size) return [i, i, 0];
    return [i - 1, i, Math.log(size / axis[i - 1]) / Math.log(axis[i] / axis[i - 1])];
  };
  const [m0, m1, s] = place(table.input, m), [n0, n1, t] = place(table.output, n);
  const mix = (rows, of) => [[m0, n0, (1 - s) * (1 - t)], [m0, n1, (1 - s) * t], [m1, n0, s * (1 - t)], [m1, n1, s * t]].reduce((sum, [i, j, weight]) => sum + weight * of(rows[i][j]), 0);
  const value = Math.exp(mix(table.value, Math.log));
  const measured = table.ranges.every(({ min, corners }) => m >= min[0] && n >= min[1] && corners.some(([mostM, mostN]) => m <= mostM && n <= mostN));
  const halves = [table.mean_share, table.request_share].map((shares) => value * mix(shares, (share) => share));
  const far = table.ranges.some((range) => octavesOutside(range, m, n) > tooFar);
  return { value, half: far ? null : halves[0], oneHalf: far ? null : halves[1], measured, far };
}

// How far a size lies below the smallest or above the largest of an axis, in octaves of the axis on which it is farther.
function octavesOutside({ min, corners }, m, n) {
  const below = Math.max(Math.log2(min[0] / m), Math.log2(min[1] / n));
  const [mostM, mostN] = [0, 1].map((axis) => Math.max(...corners.map((corner) => corner[axis])));
  const above = Math.max(Math.log2(m / mostM), Math.log2(n / mostN));
  return Math.max(below, above, 0);
}

// A mean with its interval on a card and that of one request below, which holds all in full for programs that read the page.
function costCard(label, { value, half, oneHalf }, unit, estimated, ...notes) {
  const places = half > 0 ? Math.min(decimals(half, 2), decimals(value, 6)) : decimals(value, 4);
  const known = half !== null && !estimated;
  const said = estimated ? [guessed(value), unit] : [rounded(value, places), known ? `± ${rounded(half, places)} ${unit}` : unit];
  const one = known ? [`one such request: ± ${rounded(oneHalf, oneHalf > 0 ? decimals(oneHalf, 2) : places)} ${unit}`] : [];
  const box = card(label, ...said, ...one, ...notes);
  Object.assign(box.dataset, { value, half, oneHalf });
  return box;
}

function showRequests() {
  const systems = data.requests, reach = Math.min(...systems.map((system) => system.reach));
  at("request").hidden = !systems.length;
  if (!systems.length) return;
  const metered = systems.some((system) => system.energy);
  for (const rate of document.querySelectorAll(".rates")) rate.hidden = !metered;
  const stops = [];  // of a slider: at most eight sizes per doubling
  for (let start = 1; start < reach; start *= 2) for (let part = 0; part < 8; part += 1) if (Number.isInteger(start + (part * start) / 8)) stops.push(start + (part * start) / 8);
  stops.push(reach);
  const sizeOf = (side) => Math.min(reach, Math.max(1, Math.round(Number(at(`${side}-tokens`).value) || 1)));
  const rateOf = (id) => (at(id).value !== "" && Number(at(id).value) >= 0 ? Number(at(id).value) : null);
  function show() {
    const m = sizeOf("input"), n = sizeOf("output"), rates = [rateOf("price"), rateOf("carbon")];
    at("costs").replaceChildren(...systems.flatMap((system) => requestCards(system, m, n, rates, systems.length > 1)));
  }
  ["input", "output"].forEach((side, i) => {
    const box = at(`${side}-tokens`), slider = at(`${side}-slider`);
    const follow = () => { slider.value = stops.findLastIndex((stop) => stop <= sizeOf(side)); slider.setAttribute("aria-valuetext", `${sizeOf(side)} tokens`); };
    box.max = reach;
    slider.max = stops.length - 1;
    box.value = data.typical[i];
    box.addEventListener("input", () => { follow(); show(); });
    slider.addEventListener("input", () => { box.value = stops[slider.value]; follow(); show(); });
    follow();
  });
  for (const id of ["price", "carbon"]) at(id).addEventListener("input", show);
  at("request").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  show();
}

function requestCards(system, m, n, [price, carbon], named) {
  const { in_flight, runtime, energy, estimated, too_far } = system;
  const size = `${number(m)} in, ${number(n)} out${in_flight === null ? "" : `, ${in_flight} in flight`}`;
  const time = costAt(runtime, m, n, too_far), cards = element("div", null, "cards");
  cards.append(costCard(`A request of ${size} takes on average`, time, "s", false));
  let { measured, far } = time;
  if (energy) {
    const joules = costAt(energy, m, n, too_far), perToken = joules.value / n, kwh = perToken / 3.6;  // of a million tokens
    const about = estimated ? guessed : plain;
    measured = measured && joules.measured;
    far = far || joules.far;
    const money = price === null ? null : `${about(kwh * price)} in your currency`, grams = carbon === null ? null : `${about(kwh * carbon)} g of CO₂`;
    cards.append(costCard(`and uses${estimated ? " (estimated)" : ""}`, joules, "J", estimated, `${about(perToken)} J per output token`));
    const million = card("A million output tokens in such requests use", about(kwh), "kWh", money, grams);
    if (money === null && grams === null) million.append(element("p", "Enter your price and grams of CO₂ to see what that costs.", "note hint"));
    cards.append(million);
  } else {
    cards.append(card("Energy", "not measured", ""));
  }
  const where = measured ? `Predicted by the model, inside the measured sizes${estimated ? "" : "; 95 % intervals of the mean on another day, and of one request"}.` : `${far ? "Outside what was measured, where no interval is known" : "Extrapolated"}: measured sizes go ${system.measured}.`;
  const note = element("p", where, measured ? "note" : "alarm");
  return [...(named ? [element("h3", system.name)] : []), cards, note];
}

function showModels() {
  const { charts, sentences, table } = data.models;
  at("quality").hidden = !charts.length;
  at("sentences").append(...sentences.map((text) => element("p", kept(text))));
  if (!charts.length) return;
  showFigures(at("fits"), charts.map((chart) => ({
    title: `${chart.title}: predicted against measured, ${chart.unit}`, xLabel: `measured, ${chart.unit}`, diagonal: true, named: chart.series.length > 1,
    series: chart.series.map((series) => ({ ...series, apart: true })),
  })));
  fillTable(at("models"), table.columns, table.rows);
}

// Every answer comes worked out, with its intervals; here it is looked up and drawn.
function showExplorer() {
  at("thresholds").hidden = !data.explorer;
  if (!data.explorer) return;
  at("refusal").textContent = data.explorer.refusal || "";
  at("refusal").hidden = !data.explorer.refusal;
  at("explorer").hidden = Boolean(data.explorer.refusal);
  if (data.explorer.refusal) return;
  const { workloads, key, weights, intervals, pairs } = data.explorer;
  pairs.forEach((pair, i) => at("pair").append(new Option(`${pair.small} → ${pair.large}${pair.estimated ? " (energy estimated)" : ""}`, i)));
  workloads.forEach((name, i) => at("workload").append(new Option(name, i)));
  let found = null, best = null;
  function refresh() {
    const pair = pairs[at("pair").value], step = Math.round(at("weight").value * (weights.length - 1));
    found = pair.answers[at("workload").value];
    at("weight-value").textContent = weights[step].toFixed(1);
    at("mark").textContent = found.refusal || pair.mark;
    at("doubts").replaceChildren(...found.warnings.map((text) => element("li", text)));
    for (const id of ["threshold", "best"]) at(id).disabled = Boolean(found.refusal);
    for (const id of ["words", "curve", "curve-note", "answer", "intervals"]) at(id).hidden = Boolean(found.refusal);
    if (found.refusal) return;
    best = found.best[step];
    at("threshold").max = found.threshold.length - 1;
    at("threshold").value = best.at;
    at("words").textContent = best.words;
    fillTable(at("intervals"), ["best threshold against large alone", "value", "95 % from", "to"], intervals.map((name, i) => [name, ...best.intervals[i]]));
    show();
  }
  function show() {
    const { threshold, energy_kwh, runtime_h } = found, last = threshold.length - 1, here = Math.min(at("threshold").value, last);
    at("threshold-value").textContent = number(threshold[here]);
    const saved = (i) => 100 * (1 - energy_kwh[i] / energy_kwh[0]);
    const plans = [[`split at T = ${threshold[here]}`, here], [`best split, T = ${threshold[best.at]}`, best.at], ["small alone", last], ["large alone", 0]];
    fillTable(at("answer"), ["plan", "energy, kWh", "runtime, h", "energy saved, %"], plans.map(([name, i]) => [name, energy_kwh[i], runtime_h[i], saved(i)]));
    const point = (i) => [Math.max(threshold[i], threshold[1] ?? 1), saved(i), null, `T = ${number(threshold[i])}: ${plain(saved(i), 3)} % saved`];
    const [, low, high] = best.intervals[intervals.length - 1];
    showFigures(at("curve"), [{
      title: "Energy saved against the large system alone, %", xLabel: `threshold T, ${key}`, logY: false, zero: true, shade: low === null ? null : [Math.max(low, 1), Math.max(high, 1)],
      series: [
        { colour: "var(--alarm)", marker: "D", points: [point(here)], apart: true },
        { colour: INK, marker: "o", hollow: true, points: [point(best.at)], apart: true },
        { colour: INK, marker: null, points: threshold.map((_, i) => point(i)).slice(1) },
      ],
    }]);
  }
  for (const id of ["pair", "workload"]) at(id).addEventListener("change", refresh);
  at("weight").addEventListener("input", refresh);
  at("best").addEventListener("click", refresh);
  at("threshold").addEventListener("input", show);
  at("explorer").addEventListener("submit", (event) => event.preventDefault());
  refresh();
}

function showTrials() {
  const { columns } = data.trials, table = at("trials"), head = table.createTHead().insertRow(), body = table.createTBody();
  const rows = data.trials.rows.map((values) => ({ values, text: values.join(" ").toLowerCase() }));
  let order = { column: -1, up: true }, shown = rows;
  function show() {
    shown = rows.filter((row) => row.text.includes(at("filter").value.toLowerCase()));
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
  columns.forEach((name, i) => {
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
  at("csv").addEventListener("click", () => {
    const text = [columns, ...shown.map((row) => row.values)].map((row) => row.map(csvCell).join(",")).join("\r\n");
    const link = element("a"), address = URL.createObjectURL(new Blob([`${text}\r\n`], { type: "text/csv" }));
    Object.assign(link, { href: address, download: "trials.csv" });
    link.click();
    URL.revokeObjectURL(address);
  });
  show();
}

// A cell that a spreadsheet would take for a formula begins with an apostrophe.
function csvCell(value) {
  let text = value === null ? "" : String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

function showFacts(place, groups) {
  for (const { title, rows } of groups) {
    const list = element("dl");
    for (const [label, value] of rows) list.append(element("dt", label), element("dd", value));
    place.append(...(groups.length > 1 ? [element("h3", title)] : []), list);
  }
}

document.body.append(Object.assign(element("div"), { id: "tip", hidden: true }));
at("tip").setAttribute("role", "status");
showHeads();
showSweeps();
showLoads();
showRequests();
showModels();
showExplorer();
showTrials();
showFacts(at("energy"), data.energy);
showFacts(at("facts"), data.facts);

// On paper short folded parts are open; trials only where the reader has opened them.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details.printed:not([open])")];
  for (const part of opened) part.open = true;
});
window.addEventListener("afterprint", () => { for (const part of opened) part.open = false; });
