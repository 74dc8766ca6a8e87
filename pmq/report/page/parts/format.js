// Figures with their units, elements, tables: what every section uses.

const BLUE = "#0072b2", ORANGE = "#e69f00", GREEN = "#009e73", RED = "#d55e00", GREY = "#999999", PINK = "#cc79a7", SKY = "#56b4e9";
const SEVERAL = [BLUE, ORANGE, GREEN, PINK, SKY, RED];
const NARROW = window.matchMedia("(max-width: 600px)");

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function figure(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(Math.abs(value) || 1))))));
}

const megabytes = (bytes) => (bytes === null || bytes === undefined ? "–" : `${(bytes / 1e6).toFixed(3)} MB`);
const billions = (ops) => (ops === null || ops === undefined ? "–" : `${figure(ops / 1e9, 4)} G`);
const milliseconds = (ms) => (ms === null || ms === undefined ? "–" : `${figure(ms)} ms`);
const percent = (share) => (share === null || share === undefined ? "–" : `${share.toFixed(1)} %`);

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
  const made = element("section", { id }, element("h2", {}, title), ...children);
  document.getElementById("main").append(made);
  return made;
}

const note = (text) => element("p", { class: "note" }, text);

// The rows of a table that is held by columns.
function rowsOf(columns) {
  const names = Object.keys(columns);
  return (columns[names[0]] ?? []).map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

function plot(holder, traces, layout) {
  const narrow = NARROW.matches;
  const shared = {
    margin: { l: narrow ? 52 : 70, r: 12, t: 12, b: narrow ? 100 : 60 },
    font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13 },
    hovermode: "closest", paper_bgcolor: "#fff", plot_bgcolor: "#fff",
    legend: { orientation: "h", y: narrow ? -0.28 : -0.2, font: { size: 11 } },
  };
  const config = { displaylogo: false, displayModeBar: narrow ? false : "hover", responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  return Plotly.react(holder, traces, { ...shared, ...layout }, config);
}

const axis = (title, extra = {}) => ({ title: { text: title }, gridcolor: "#e8ecf0", zeroline: false, automargin: true, ...extra });
