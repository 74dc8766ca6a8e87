// The sensitivity of each component, the cost breakdown, and the pruned channels.

function renderWhy(run) {
  const rows = rowsOf(run.sensitivity), holder = element("div", { id: "sensitivity-plot" });
  const draw = () => drawSensitivity(rows.filter((r) => r.role === role.value), holder, unitOf(run));
  const [label, role] = choiceOf("show", "role", [{ key: "weight", label: "weights" }, { key: "activation", label: "activations" }], draw);
  const metric = rows.length ? rows[0].metric : "";
  section("why", "Sensitivity and costs", note(`Error when a single component is quantized, at each bit-width, estimated by the metric ${metric}. Darker cells are more sensitive.`),
    element("div", { class: "controls" }, label), holder);
  draw();
  if (run.cost_breakdown) renderCostBreakdown(run);
}

function drawSensitivity(rows, holder, unit) {
  const names = [...new Set(rows.map((r) => r.component))];
  const group = (r) => (missing(r.group_size) ? "" : ` group ${r.group_size}`);
  const label = (r) => (r.bits === 16 ? r.quantizer : `${r.bits} bit${r.quantizer === "affine" ? "" : ` ${r.quantizer}`}${group(r)}`);
  const columns = [...new Set([...rows].sort((a, b) => a.bits - b.bits).map(label))];
  const z = names.map(() => columns.map(() => null));
  for (const r of rows) z[names.indexOf(r.component)][columns.indexOf(label(r))] = Math.max(r.error, 1e-9);
  holder.style.height = `${Math.max(300, 16 * names.length + 130)}px`;
  const logs = z.map((row) => row.map((v) => (v === null ? null : Math.log10(v))));
  const known = logs.flat().filter((v) => v !== null), low = Math.floor(Math.min(...known)), high = Math.ceil(Math.max(...known));
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => low + i);
  plot(holder, [{
    type: "heatmap", x: columns, y: names, z: logs, customdata: z, colorscale: "Cividis", reversescale: true, xgap: 1, ygap: 1,
    hovertemplate: `%{y}<br>%{x}: %{customdata:.3g} ${unit}<extra></extra>`,
    colorbar: { title: { text: `error (${unit})`, side: "right" }, tickvals: ticks, ticktext: ticks.map((t) => `1e${t}`), thickness: 12 },
  }], { yaxis: { autorange: "reversed", automargin: true, tickfont: { size: NARROW.matches ? 8 : 10 }, dtick: 1 }, xaxis: { side: "top", automargin: true, type: "category" }, margin: { l: 60, r: 10, t: 40, b: 10 } });
}

function renderCostBreakdown(run) {
  const rows = rowsOf(run.cost_breakdown), holder = element("div", { class: "plot", id: "spent-plot" });
  const axes = run.axes.filter((a) => rows.length && a.key in rows[0]);
  const colours = [BLUE, ORANGE, GREEN, PINK, SKY, RED, "#f0e442", "#000000"];
  const draw = () => {
    const a = axes[picker.selectedIndex];
    plot(holder, [...new Set(rows.map((r) => r.part))].map((part, k) => {
      const members = rows.filter((r) => r.part === part);
      return { type: "bar", name: part, marker: { color: colours[k % colours.length] }, x: members.map((r) => r.block), y: members.map((r) => r[a.key] / a.unit), hovertext: members.map((r) => `${r.module}: ${FIGURES[a.key][1](r[a.key])}`), hoverinfo: "text" };
    }), { barmode: "relative", xaxis: { type: "category", categoryarray: [...new Set(rows.map((r) => r.block))], automargin: true, tickangle: -45 }, yaxis: axis(a.label) });
  };
  const [label, picker] = choiceOf("show", "spent-of", axes.map((a) => ({ key: a.key, label: a.label })), draw);
  document.getElementById("why").append(element("h3", {}, "Cost breakdown of the chosen allocation"), element("div", { class: "controls" }, label), holder);
  draw();
}

// The channels that an allocation keeps; a run without any pruning has no such section.
function renderKept(units, unknown) {
  const rows = keptChannels(units);
  let pruning = document.getElementById("pruning");
  if (!rows.length) { pruning?.replaceChildren(element("h2", {}, "Pruning"), note(unknown || "This allocation keeps every channel.")); return; }
  const holder = element("div", { class: "plot", id: "pruning-plot" });
  if (!pruning) pruning = section("pruning", "Pruning");
  pruning.replaceChildren(element("h2", {}, "Pruning"), note("Share of channels that are kept in each MLP and each attention (q, k and v of all heads)."), holder);
  const kinds = { hidden: ["hidden channels of MLPs", BLUE], attention: ["channels of attention heads", ORANGE], embedding: ["embedding channels", GREEN] };
  plot(holder, Object.entries(kinds).map(([kind, [name, color]]) => {
    const members = rows.filter((r) => r.kind === kind);
    return { type: "bar", name, marker: { color }, x: members.map((r) => r.name.replace(/\.(mlp|attn)$/, "")), y: members.map((r) => (100 * r.kept) / r.size), hovertext: members.map((r) => `${r.name}: ${r.kept} of ${r.size} channels kept`), hoverinfo: "text" };
  }).filter((t) => t.x.length), { barmode: "group", xaxis: { type: "category", automargin: true, tickangle: -45 }, yaxis: axis("kept (% of channels)", { range: [0, 102] }) });
}
