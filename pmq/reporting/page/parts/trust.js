// Validation: predictions against simulation, simulation against deployed files, convergence, and reproduction.

function renderTrust(run) {
  const parts = [];
  if (run.points) parts.push(...predictions(run), ...convergence(run));
  const deployed = run.deployments.filter((d) => d.agreement_simulated !== null);
  if (deployed.length) {
    parts.push(element("h3", {}, "Simulated against deployed model"), table(["file", "agreement of simulation with FP32", "agreement of file with FP32", "agreement of file with simulation", "images"],
      deployed.map((d) => [d.folder, percent(d.agreement_simulation_fp32), percent(d.agreement_fp32), percent(d.agreement_simulated), d.n_images])));
  }
  parts.push(element("h3", {}, "Settings that determine the result"), table([], run.facts.map((cells) => ({ cells, wrap: true }))));
  if (run.seconds) parts.push(element("h3", {}, run.resumed ? "Time (of the last process, because the run was resumed)" : "Time"), table([], Object.entries(run.seconds).map(([name, s]) => [name, `${figure(s)} s`])));
  if (run.command) parts.push(element("h3", {}, "Command that reproduces the run"), element("pre", {}, run.command));
  section("trust", "Validation", ...parts);
  parts.filter((part) => part.later).forEach((part) => part.later());
}

function predictions(run) {
  const key = run.error, points = rowsOf(run.points).filter((p) => p[key] > 0 && p.predicted_error > 0);
  const holder = element("div", { class: "plot", id: "trust-plot" });
  const all = points.flatMap((p) => [p[key], p.predicted_error]), ends = [Math.min(...all), Math.max(...all)];
  const trace = (name, color, symbol, drawn) => ({ type: "scatter", mode: "markers", name, marker: { color, symbol, size: 8, line: { width: symbol === "x-thin" ? 2 : 0, color } }, x: drawn.map((p) => p.predicted_error), y: drawn.map((p) => p[key]), hovertext: drawn.map((p) => describe(p, run)), hoverinfo: "text" });
  holder.later = () => plot(holder, [
    trace("over the budget", GREY, "x-thin", points.filter((p) => !p.within)), trace("within the budget", BLUE, "circle", points.filter((p) => p.within)),
    { type: "scatter", mode: "lines", name: "as predicted", x: ends, y: ends, line: { color: GREY, dash: "dot" }, hoverinfo: "skip" },
  ], { xaxis: axis(`predicted error (${unitOf(run)})`, { type: "log", exponentformat: "power" }), yaxis: axis(`simulated error, held-out images (${unitOf(run)})`, { type: "log", exponentformat: "power" }) });
  const correlations = Object.entries(run.ranking).map(([name, r]) => `${name.replace("_", " ")} ${figure(r.tau, 2)} (95 % confidence interval ${figure(r.low, 2)} to ${figure(r.high, 2)}, ${r.n} allocations)`);
  return [element("h3", {}, "Predicted against simulated error"), note(correlations.length ? `Kendall's rank correlation (1 is perfect): ${correlations.join("; ")}.` : "Too few allocations were simulated for a rank correlation."), holder];
}

function convergence(run) {
  const rounds = rowsOf(run.rounds);
  if (!rounds.length) return [];
  const holder = element("div", { class: "plot", id: "rounds-plot" }), x = rounds.map((_, i) => i + 1), hovertext = rounds.map((r) => `${r.simulated} allocations simulated so far`);
  holder.later = () => plot(holder, [
    { type: "scatter", mode: "lines+markers", name: "hypervolume", x, y: rounds.map((r) => r.hypervolume), hovertext, marker: { color: ORANGE }, yaxis: "y2" },
    { type: "scatter", mode: "lines+markers", name: "lowest error within the budget", x, y: rounds.map((r) => r.error), hovertext, marker: { color: BLUE } },
  ], {
    xaxis: axis("round", { dtick: 1 }), yaxis: axis(`lowest error (${unitOf(run)})`, { rangemode: "tozero", exponentformat: "power" }),
    yaxis2: { title: { text: "hypervolume (decades x budget)" }, overlaying: "y", side: "right", rangemode: "tozero", showgrid: false, automargin: true, tickformat: ".2g" },
    margin: { l: 70, r: 60, t: 12, b: 60 },
  });
  return [element("h3", {}, "Convergence of the search"), note("After each round: the lowest simulated error within the budget, and the hypervolume of the simulated allocations (error in decades, cost as a share of the budget)."), holder];
}
