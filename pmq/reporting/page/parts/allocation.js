// The selected allocation: metrics and costs, bit-widths by block, and its file.

const DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
// viridis, from low to high bit-widths
const BITS = { 2: "#440154", 3: "#46327e", 4: "#365c8d", 5: "#277f8e", 6: "#1fa187", 7: "#2fb47c", 8: "#4ac16d", 16: "#a0da39", 32: "#fde725" };
const bitsLabel = (choice) => (choice.bits === 32 ? "fp32" : choice.bits === 16 ? (choice.quantizer === "bfloat16" ? "bf16" : "fp16") : String(choice.bits));

// The choices of a point by component and its pruned units, or null where they are unknown.
function choicesOf(run, point) {
  if (point.chosen) return { components: run.allocation.components, units: run.allocation.pruning?.units ?? {} };
  if (!run.decisions || !point.genome) return null;
  const components = {}, units = { ...run.allocation.pruning?.units };
  run.decisions.forEach((decision, i) => {
    const at = DIGITS.indexOf(point.genome[i]);
    decision.components.forEach((name, j) => {
      const choice = decision.choices[j][at];
      if (choice.unit) units[name] = choice.unit;
      else components[name] = choice;
    });
  });
  return { components, units };
}

// The allocation file of a point, for `pmq evaluate FILE --recalibrate`.
function allocationOf(run, point) {
  if (point.chosen) return run.allocation;
  const choices = choicesOf(run, point), base = run.allocation;
  if (!choices) return null;
  const metrics = Object.fromEntries(["predicted_error", "kl", "agreement", "feature_error"].map((key) => [key, point[key] ?? null]));
  const searchedWidths = run.decisions.some((decision) => decision.choices[0][0].unit);
  const achieved = Object.fromEntries(run.axes.map((a) => [a.key, point[a.key]]));
  const components = Object.fromEntries(Object.keys(base.components).map((name) => [name, { ...choices.components[name], parameters: null }]));
  const pruning = searchedWidths ? { ...base.pruning, units: choices.units, weights_sha256: null, parameters: null } : base.pruning;
  const inventory = searchedWidths ? null : base.inventory; // the inventory holds for the widths of the chosen allocation only
  return { ...base, components, inventory, pruning, patches: null, metrics, tensors_sha256: null, budget: { ...base.budget, achieved } };
}

function download(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function bitsTable(run, components, role, differs = () => false) {
  const weight = role === "weight";
  const names = Object.keys(components).filter((name) => name.endsWith(".weight") === weight);
  const rows = [...new Set(names.map((name) => run.places[name][0]))];
  const parts = [...new Set(names.map((name) => run.places[name][1]))];
  const at = Object.fromEntries(names.map((name) => [run.places[name].join("\n"), name]));
  const cell = (block, part) => {
    const name = at[`${block}\n${part}`];
    if (!name) return element("td", {});
    const choice = components[name], dark = choice.bits < 6;
    const style = `background:${BITS[choice.bits] ?? "#ccc"};color:${dark ? "#fff" : "#111"}`;
    return element("td", { style, title: choice.bits === 32 ? `${name}: FP32` : `${name}: ${choice.bits} bit, ${choice.quantizer}, one scale per ${choice.granularity}`, "data-component": name, class: differs(name) ? "differs" : null }, bitsLabel(choice));
  };
  const short = (part) => part.replace(/\.(weight|input)$/, "").replace(/[._]/g, " "); // spaces allow headings to wrap
  const body = rows.map((block) => element("tr", {}, element("th", {}, block.replace(/^(blocks|layers)\./, "")), ...parts.map((part) => cell(block, part))));
  return element("div", { class: "scroll" }, element("table", { class: "bits" },
    element("thead", {}, element("tr", {}, element("th", {}, "block"), ...parts.map((p) => element("th", {}, short(p))))), element("tbody", {}, ...body)));
}

function bitsLegend(components) {
  const widths = [...new Set(Object.values(components).map((c) => c.bits))].sort((a, b) => a - b);
  return element("div", { class: "legend" }, ...widths.map((b) => element("span", {}, element("i", { style: `background:${BITS[b] ?? "#ccc"}` }), b === 32 ? "FP32" : `${b} bit`)));
}

function heatMaps(run, components, differs) {
  return [element("h3", {}, "Bit-widths of weights"), bitsTable(run, components, "weight", differs),
    element("h3", {}, "Bit-widths of activations"), bitsTable(run, components, "activation", differs), bitsLegend(components)];
}

// Number of channels that remain in each pruned unit.
function keptChannels(units) {
  const length = (range) => { const [low, high] = range.split("-").map(Number); return (high ?? low) - low + 1; };
  return Object.entries(units).map(([name, unit]) => ({ name, kind: unit.kind, size: unit.size, kept: unit.kept.split(",").reduce((sum, range) => sum + length(range), 0) }));
}

function renderAllocation(run, points) {
  const body = element("div", { id: "allocation-body" });
  section("allocation", "Allocation", body);
  const select = (point) => {
    const choices = choicesOf(run, point), file = allocationOf(run, point), patched = point.chosen && run.allocation.patches;
    const figures = point.chosen ? { ...point, ...run.achieved } : point, x = run.axes.find((a) => a.key === run.cost);
    const button = element("button", { id: "download", disabled: !file, onclick: () => download(fileName(point, x), JSON.stringify(file, null, 1)) }, "Download allocation (JSON)");
    const finished = point.chosen ? [element("h3", {}, `Quantized layer by layer with recipe ${run.allocation.recipe.name}${patched ? " and bit-widths of patches" : ""}`), table([], figureRows(run.metrics, run).filter(([name]) => name !== "predicted error"))] : [];
    const unknown = point.genome ? "The bit-widths of this allocation are unknown, because an older version wrote the run without its decisions." : "This allocation is outside the search space and is shown for comparison only.";
    body.replaceChildren(element("p", {}, element("b", { id: "selected" }, nameOf(point)), " ", button), table([], figureRows(figures, run)), ...finished,
      ...(patched ? [note("The tables show bit-widths of whole layers. Activations in the section Patches have a bit-width for each token instead.")] : []),
      ...(choices ? heatMaps(run, choices.components) : [note(unknown)]),
      ...(file ? [note("This command quantizes the model with a downloaded allocation file and evaluates it:"), element("pre", {}, run.recalibrate)] : []));
    renderKept(choices ? choices.units : {}, choices ? "" : unknown);
  };
  const chosen = points.find((p) => p.chosen);
  if (chosen) select(chosen);
  return select;
}

const fileName = (point, x) => (point.chosen ? "chosen.json" : `allocation-${figure(point[x.key] / x.unit, 4)}.json`);
