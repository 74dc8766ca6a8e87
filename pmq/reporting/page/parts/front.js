// The Pareto front among all candidates: error or agreement against a cost.

function heights(run) {
  const feature = run.error === "feature_error";
  const simulated = feature ? "feature error, held-out images (of their norm)" : "KL to FP32, held-out images (nats)";
  const errors = [{ key: run.error, label: simulated, log: true }, { key: "predicted_error", label: `predicted error (${unitOf(run)})`, log: true }];
  return feature ? errors : [errors[0], { key: "agreement", label: "agreement with FP32, held-out images (%)", log: false }, errors[1]];
}

function choiceOf(label, id, options, changed) {
  const picker = element("select", { id, onchange: changed }, ...options.map((o) => element("option", { value: o.key }, o.label)));
  return [element("label", {}, `${label} `, picker), picker];
}

function describe(point, run) {
  return [`<b>${nameOf(point)}</b>`, ...figureRows(point, run).map(([name, value]) => `${name}: ${value}`)].join("<br>");
}

const nameOf = (point) => (point.chosen ? "chosen by the search" : point.source === "nsga2" ? "candidate of the search" : point.source === "fp32" ? "FP32" : point.source);

// The kinds of points; the first that matches a point determines how it is drawn.
const KINDS = [
  { name: "dominated, predicted", is: (p) => !p.front && !p.evaluated, marker: { color: GREY, size: 4, opacity: 0.35 } },
  { name: "Pareto front, predicted", is: (p) => p.front && !p.evaluated, marker: { color: BLUE, size: 4 } },
  { name: "simulated, over the budget", is: (p) => !p.within, marker: { color: GREY, size: 8, symbol: "x-thin", line: { width: 2, color: "#555" } } },
  { name: "simulated, within the budget", is: () => true, marker: { color: BLUE, size: 8 } },
];
const UNIFORM = { name: "uniform and FP32", marker: { color: ORANGE, size: 11, symbol: "square", line: { width: 1, color: "#7a5200" } } };

function kindOf(point) {
  return /^(uniform|fp32)/.test(point.source) ? UNIFORM : KINDS.find((kind) => kind.is(point));
}

function renderFront(run, select) {
  const ys = heights(run), points = rowsOf(run.points).map((p) => ({ ...p, evaluated: !missing(p[run.error]) })); // on all held-out images
  const holder = element("div", { class: "plot", id: "front-plot" });
  const draw = () => drawFront(run, points, holder, ys[y.selectedIndex], run.axes[x.selectedIndex], select);
  const [xLabel, x] = choiceOf("against", "front-x", run.axes.map((a) => ({ key: a.key, label: a.label })), draw);
  const [yLabel, y] = choiceOf("show", "front-y", ys, draw);
  x.value = run.cost;
  const named = [["chosen", points.findIndex((p) => p.chosen)], ...Object.entries(run.picks)];
  const buttons = named.map(([name, at]) => element("button", { onclick: () => select(points[at]) }, name));
  const simulated = points.filter((p) => p.evaluated).length, partly = points.filter((p) => p.n_images > 0).length - simulated;
  const more = partly ? ` and ${partly} more on some of them` : "";
  const drawn = points.length < run.n_points ? ` The plot shows ${points.length} of the allocations, with the whole front.` : "";
  const about = `The search predicted ${run.n_points} allocations and simulated ${simulated} of them on all held-out images${more}.${drawn} Click a point to see its bit-widths and to download its allocation file.`;
  section("front", "Pareto front", note(about), element("div", { class: "controls" }, yLabel, xLabel), holder,
    element("div", { class: "controls" }, "Select: ", ...buttons));
  draw();
  return points;
}

function drawFront(run, points, holder, y, x, select) {
  const shown = points.filter((p) => !missing(p[y.key]) && !missing(p[x.key]) && (y.key === "predicted_error" || p.evaluated));
  const floor = y.log ? 0.4 * Math.min(...shown.map((p) => p[y.key]).filter((v) => v > 0)) : -Infinity; // a logarithmic axis cannot show zero
  const traces = [...KINDS, UNIFORM].map((kind) => {
    const members = shown.filter((p) => kindOf(p) === kind);
    return {
      name: kind.name, type: "scatter", mode: kind === UNIFORM ? "markers+text" : "markers", marker: kind.marker, customdata: members,
      x: members.map((p) => p[x.key] / x.unit), y: members.map((p) => Math.max(p[y.key], floor)), hovertext: members.map((p) => describe(p, run)), hoverinfo: "text",
      text: members.map((p) => p.source.replace("uniform ", "").toUpperCase()), textposition: "top right", textfont: { size: 10 }, meta: "points",
    };
  }).filter((trace) => trace.x.length);
  const best = staircase(shown.filter((p) => p.source !== "fp32"), x.key, y);
  traces.unshift({ name: "front in this plot", mode: "lines", line: { color: BLUE, width: 1.2, shape: "hv" }, hoverinfo: "skip", x: best.map((p) => p[x.key] / x.unit), y: best.map((p) => Math.max(p[y.key], floor)) });
  const marked = [["chosen", points.findIndex((p) => p.chosen), "star", RED], ...Object.entries(run.picks).map(([name, at], i) => [name, at, ["diamond-open", "circle-open", "triangle-up-open"][i], GREEN])];
  for (const [name, at, symbol, color] of marked) {
    const p = points[at];
    if (!p || missing(p[y.key]) || (y.key !== "predicted_error" && !p.evaluated)) continue;
    traces.push({ name, mode: "markers", x: [p[x.key] / x.unit], y: [p[y.key]], customdata: [p], hovertext: [`<b>${name}</b><br>${describe(p, run)}`], hoverinfo: "text", marker: { symbol, color, size: 16, line: { width: 2.5, color } } });
  }
  const limit = run.limits[x.key], budget = limit === null || limit === undefined ? [] : [
    { type: "line", x0: limit / x.unit, x1: limit / x.unit, y0: 0, y1: 1, yref: "paper", line: { color: GREEN, dash: "dash", width: 1.5 } }];
  const words = budget.map((line) => ({ x: Math.log10(line.x0), y: 1, yref: "paper", text: `budget: ${figure(line.x0)}`, showarrow: false, xanchor: "right", font: { color: GREEN } }));
  plot(holder, traces, {
    xaxis: costAxis(x.label, shown.map((p) => p[x.key] / x.unit)),
    yaxis: axis(y.label, { type: y.log ? "log" : "linear", exponentformat: "power" }), shapes: budget, annotations: words,
  });
  holder.removeAllListeners?.("plotly_click");
  holder.on("plotly_click", (event) => event.points[0].customdata && select(event.points[0].customdata));
}

function staircase(points, cost, y) {
  const better = y.log ? (a, b) => a < b : (a, b) => a > b;
  const steps = [];
  for (const p of [...points].sort((a, b) => a[cost] - b[cost] || (better(a[y.key], b[y.key]) ? -1 : 1))) {
    if (!steps.length || better(p[y.key], steps[steps.length - 1][y.key])) steps.push(p);
  }
  return steps;
}
