// Read the data of the page and render its sections.

function cards(run) {
  const fp32 = run.points ? rowsOf(run.points).find((p) => p.source === "fp32") : null, figures = { ...run.achieved, ...run.metrics };
  const cheaper = (key) => (key in (run.achieved ?? {}) && fp32?.[key] && figures[key] ? `${figure(fp32[key] / figures[key], 2)}x less than FP32` : "");
  const keys = Object.keys(FIGURES).filter((key) => key !== "predicted_error" && !missing(figures[key]));
  const card = (key) => { const [name, write] = FIGURES[key], more = cheaper(key); return element("div", { class: "card" }, element("b", {}, write(figures[key], run)), element("span", {}, more ? `${name}, ${more}` : name)); };
  return element("div", { class: "cards" }, ...keys.map(card));
}

function renderRun(run) {
  document.getElementById("summary").append(cards(run));
  if (run.points) {
    let select = () => {};
    const points = renderFront(run, (point) => { select(point); document.getElementById("allocation").scrollIntoView(); });
    select = renderAllocation(run, points);
    renderWhy(run);
  } else {
    section("allocation", "Model", note(run.allocation.recipe.finetune ? "This run is a model with the bits of an allocation, fine-tuned with them. It can be evaluated, simulated and deployed." : "This run is a pruned model in FP32. It can be searched, deployed and evaluated like any other model."));
    renderKept(run.allocation.pruning?.units ?? {}, "");
  }
  if (run.allocation.merging) renderMerging(run.allocation.merging);
  if (run.patches.length) renderPatches(run);
  renderTrust(run);
  renderDeploy([run]);
}

const RUNS = JSON.parse(document.getElementById("data").textContent);
if (RUNS.length > 1) renderCompare(RUNS);
else renderRun(RUNS[0]);
document.body.dataset.ready = "yes";
