// Read the data and show what it has.

function cards(run) {
  const chosen = run.achieved ?? {}, fp32 = run.points ? rowsOf(run.points).find((p) => p.source === "fp32") : null;
  const times = (whole, part) => (whole && part ? `${figure(whole / part, 2)}x less than FP32` : "");
  const found = [
    [megabytes(chosen.size_bytes), "size", times(fp32?.size_bytes, chosen.size_bytes)], [billions(chosen.bit_ops), "bit operations an image", times(fp32?.bit_ops, chosen.bit_ops)],
    [milliseconds(chosen.latency_ms), "predicted latency", times(fp32?.latency_ms, chosen.latency_ms)],
    [percent(run.metrics.agreement ?? run.pruned?.agreement), "agreement with FP32", "held-out images"], [figure(run.metrics.kl ?? run.pruned?.kl), "KL to FP32 (nats)", "held-out images"],
  ].filter(([value]) => value !== "–");
  return element("div", { class: "cards" }, ...found.map(([value, name, more]) => element("div", { class: "card" }, element("b", {}, value), element("span", {}, more ? `${name}, ${more}` : name))));
}

function renderRun(run) {
  document.getElementById("summary").append(cards(run));
  if (run.points) {
    let select = () => {};
    const points = renderFront(run, (point) => { select(point); document.getElementById("allocation").scrollIntoView(); });
    select = renderAllocation(run, points);
    renderWhy(run);
  } else {
    section("allocation", "The model", note("A pruned model in FP32: search, deploy or evaluate it like any other."));
    renderKept(run, run.allocation.pruning?.units ?? {});
  }
  if (run.patches.length) renderPatches(run);
  renderTrust(run);
  renderDeploy([run]);
}

const RUNS = JSON.parse(document.getElementById("data").textContent);
if (RUNS.length > 1) renderCompare(RUNS);
else renderRun(RUNS[0]);
document.body.dataset.ready = "yes";
