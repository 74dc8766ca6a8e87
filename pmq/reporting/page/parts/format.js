// Helpers of all sections: values with units, DOM elements, tables and plots.

const BLUE = "#0072b2", ORANGE = "#e69f00", GREEN = "#009e73", RED = "#d55e00", GREY = "#999999", PINK = "#cc79a7", SKY = "#56b4e9";
const SEVERAL = [BLUE, ORANGE, GREEN, PINK, SKY, RED];
const NARROW = window.matchMedia("(max-width: 600px)");

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const missing = (value) => value === null || value === undefined;

function figure(value, digits = 3) {
  if (missing(value) || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(Math.abs(value) || 1))))));
}

const megabytes = (bytes) => (missing(bytes) ? "–" : `${(bytes / 1e6).toFixed(3)} MB`);
const billions = (ops) => (missing(ops) ? "–" : `${figure(ops / 1e9, 4)} G`);
const milliseconds = (ms) => (missing(ms) ? "–" : `${figure(ms)} ms`);
const percent = (share) => (missing(share) ? "–" : `${share.toFixed(1)} %`);

// The label of each metric and cost, and the function that formats its value with its unit.
const FIGURES = {
  size_bytes: ["size", megabytes], bit_ops: ["bit operations per image", billions], latency_ms: ["predicted latency", milliseconds],
  agreement: ["agreement with FP32", percent], top1: ["top-1", percent], kl: ["KL to FP32", (value) => withUnit(value, "nats")],
  feature_error: ["feature error", (value) => withUnit(value, "of their norm")], predicted_error: ["predicted error", (value, run) => withUnit(value, unitOf(run))],
};
const withUnit = (value, unit) => (missing(value) ? "–" : `${figure(value)} ${unit}`);
const unitOf = (run) => (run.error === "feature_error" ? "of the features' norm" : "nats");

// Table rows of label and value for the metrics and costs that are known.
function figureRows(figures, run) {
  return Object.entries(FIGURES).filter(([key]) => !missing(figures[key])).map(([key, [name, write]]) => [name, write(figures[key], run)]);
}

function table(columns, rows, attributes = {}) {
  const cell = (value) => (value instanceof Node ? value : document.createTextNode(value ?? "–"));
  const line = (row) => {
    const cells = row.cells ?? row;
    return element("tr", { class: row.differs ? "differs" : null },
      ...cells.map((value) => element("td", { class: row.wrap ? "wrap text" : null }, cell(value))));
  };
  const head = columns.length ? element("thead", {}, element("tr", {}, ...columns.map((c) => element("th", {}, c)))) : null;
  return element("div", { class: "scroll" }, element("table", attributes, head, element("tbody", {}, ...rows.map(line))));
}

function section(id, title, ...children) {
  document.getElementById("sections").append(element("a", { href: `#${id}` }, title));
  const node = element("section", { id }, element("h2", {}, title), ...children);
  document.getElementById("main").append(node);
  return node;
}

const note = (text) => element("p", { class: "note" }, text);

// The rows of a table that is stored by column.
function rowsOf(columns) {
  const names = Object.keys(columns);
  return (columns[names[0]] ?? []).map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

function plot(holder, traces, layout) {
  const narrow = NARROW.matches;
  const shared = {
    margin: { l: narrow ? 52 : 70, r: 12, t: 12, b: narrow ? 100 : 60 },
    font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13 },
    hovermode: "closest", dragmode: narrow ? false : "zoom", // dragging a finger on a chart scrolls the page
    paper_bgcolor: "#fff", plot_bgcolor: "#fff",
    legend: { orientation: "h", y: narrow ? -0.28 : -0.2, font: { size: 11 } },
  };
  const config = { displaylogo: false, displayModeBar: narrow ? false : "hover", responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  return Plotly.react(holder, traces, { ...shared, ...layout }, config);
}

// A logarithmic axis of less than two decades needs more ticks than the powers of ten.
function costAxis(title, values) {
  const low = Math.min(...values), high = Math.max(...values), ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) ticks.push(...[1, 1.5, 2, 3, 5, 7].map((m) => m * 10 ** e));
  return axis(title, { type: "log", tickvals: ticks, ticktext: ticks.map((t) => figure(t)) });
}

const axis = (title, extra = {}) => ({ title: { text: title }, gridcolor: "#e8ecf0", zeroline: false, automargin: true, ...extra });
