// Several runs, compared side by side.

function renderCompare(runs) {
  const names = [...new Set(runs.flatMap((run) => run.facts.map(([name]) => name)))];
  const value = (run, name) => run.facts.find(([n]) => n === name)?.[1] ?? "–";
  const facts = names.map((name) => { const cells = runs.map((run) => value(run, name)); return { cells: [name, ...cells], differs: new Set(cells).size > 1 }; });
  const figures = runs.map((run) => Object.fromEntries(figureRows({ ...run.achieved, ...run.metrics }, run)));
  const results = [...new Set(figures.flatMap(Object.keys))].map((name) => { const cells = figures.map((values) => values[name] ?? "–"); return { cells: [name, ...cells], differs: new Set(cells).size > 1 }; });
  section("figures", "Results", note("Rows with different values are highlighted."), table(["", ...runs.map((r) => r.name)], results));
  section("settings", "Settings", table(["", ...runs.map((r) => r.name)], facts));
  renderFronts(runs.filter((run) => run.points));
  renderBits(runs);
  renderDeploy(runs);
  section("commands", "Commands that reproduce the runs", ...runs.filter((r) => r.command).map((r) => element("pre", {}, r.command)));
}

function renderFronts(runs) {
  if (!runs.length) return;
  const holder = element("div", { class: "plot", id: "front-plot" });
  const axes = runs[0].axes.filter((a) => runs.every((run) => run.axes.some((b) => b.key === a.key)));
  const ys = heights(runs[0]);
  const draw = () => {
    const a = axes[x.selectedIndex], y = ys[height.selectedIndex];
    plot(holder, runs.flatMap((run, i) => {
      const color = SEVERAL[i % SEVERAL.length], all = rowsOf(run.points).filter((p) => !missing(p[y.key]) && (!y.log || p[y.key] > 0));
      const shown = y.key === "predicted_error" ? all.filter((p) => p.front) : all.filter((p) => !missing(p[run.error]));
      const best = staircase(shown.filter((p) => p.source !== "fp32"), a.key, y), chosen = shown.filter((p) => p.chosen);
      const points = (drawn, extra) => ({ type: "scatter", x: drawn.map((p) => p[a.key] / a.unit), y: drawn.map((p) => p[y.key]), hovertext: drawn.map((p) => `${run.name}<br>${describe(p, run)}`), hoverinfo: "text", legendgroup: run.name, ...extra });
      return [points(shown, { name: run.name, mode: "markers", marker: { color, size: 6, symbol: ["circle", "square", "diamond", "cross"][i % 4] } }),
        points(best, { mode: "lines", line: { color, shape: "hv", width: 1.2 }, showlegend: false, hoverinfo: "skip" }), points(chosen, { name: `${run.name}: chosen`, mode: "markers", marker: { color, size: 16, symbol: "star", line: { width: 1, color: "#000" } } })];
    }), { xaxis: costAxis(a.label, runs.flatMap((run) => run.points[a.key]).filter((v) => !missing(v)).map((v) => v / a.unit)), yaxis: axis(y.label, { type: y.log ? "log" : "linear", exponentformat: "power" }) });
  };
  const [yLabel, height] = choiceOf("show", "front-y", ys, draw), [xLabel, x] = choiceOf("against", "front-x", axes.map((a) => ({ key: a.key, label: a.label })), draw);
  if (axes.some((a) => a.key === runs[0].cost)) x.value = runs[0].cost;
  section("front", "Pareto fronts", element("div", { class: "controls" }, yLabel, xLabel), holder);
  draw();
}

function renderBits(runs) {
  const bits = runs.map((run) => run.allocation.components), names = Object.keys(bits[0]);
  const same = bits.every((components) => Object.keys(components).length === names.length && names.every((name) => name in components));
  const differs = (name) => same && new Set(bits.map((components) => bitsLabel(components[name]))).size > 1;
  const count = same ? `${names.filter(differs).length} of ${names.length} components differ and are outlined.` : "These models have different components.";
  section("bits", "Chosen bit-widths", note(count), element("div", { class: "side" }, ...runs.map((run, i) => element("div", {}, element("h3", {}, run.name), ...heatMaps(run, bits[i], differs)))));
}
