// A row for each deployed file, and how to use it.

function renderDeploy(runs) {
  const rows = runs.flatMap((run) => run.deployments.map((d) => ({ run, d })));
  if (!rows.length) {
    const name = runs[0].name;
    section("deploy", "Deploy", note("Nothing was deployed yet."), element("pre", {}, `pmq deploy RUN --target onnxruntime    # RUN: the directory of ${name}\npmq report RUN`));
    return;
  }
  const verdict = (d) => {
    const failed = Object.entries(d.proof).filter(([, check]) => !check.passed).map(([name]) => name);
    return element("span", { class: failed.length ? "failed" : "passed" }, failed.length ? `failed: ${failed.join(", ")}` : "passed");
  };
  const several = runs.length > 1, pruned = rows.some(({ d }) => !missing(d.unpruned_latency_ms));
  const faster = (ms, d) => (missing(ms) ? "–" : `${figure(ms / d.latency_ms)}x`);
  const cells = ({ run, d }) => [
    ...(several ? [run.name] : []), d.folder, d.target, megabytes(d.size_bytes), milliseconds(d.latency_ms), milliseconds(d.predicted_latency_ms), faster(d.fp32_latency_ms, d),
    ...(pruned ? [faster(d.unpruned_latency_ms, d)] : []), faster(d.torch_latency_ms, d), percent(d.agreement_fp32), withUnit(d.kl_fp32, "nats"), verdict(d)];
  const columns = [...(several ? ["run"] : []), "folder", "target", "size", "latency", "predicted", "faster than FP32 there", ...(pruned ? ["faster than before pruning, FP32 there"] : []), "faster than eager PyTorch", "agreement with FP32", "KL to FP32", "proof"];
  const where = [...new Set(rows.map(({ d }) => `${d.machine?.processor ?? "unknown processor"}, ${d.threads} thread(s)`))].join("; ");
  const commands = rows.flatMap(({ d }) => d.run ?? []);
  section("deploy", "Deploy", note(`One image at a time, on ${where}; latencies of a row were measured in turns.`), table(columns, rows.map(cells)),
    element("h3", {}, "To use a file"), element("pre", {}, [...new Set(commands)].join("\n")));
}
