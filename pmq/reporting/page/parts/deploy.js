// Deployed files with their proof, and the commands that use them.

function renderDeploy(runs) {
  const rows = runs.flatMap((run) => run.deployments.map((d) => ({ run, d })));
  if (!rows.length) {
    const name = runs[0].name;
    section("deploy", "Deployment", note("No file has been deployed yet. To deploy this run and update the report:"), element("pre", {}, `pmq deploy RUN --target onnxruntime    # RUN: the directory of ${name}\npmq report RUN`));
    return;
  }
  const verdict = (d) => {
    const failed = Object.entries(d.proof).filter(([, check]) => !check.passed).map(([name]) => name);
    return element("span", { class: failed.length ? "failed" : "passed" }, failed.length ? `failed: ${failed.join(", ")}` : "passed");
  };
  const several = runs.length > 1, pruned = rows.some(({ d }) => !missing(d.unpruned_latency_ms));
  const speedUp = (ms, d) => (missing(ms) ? "–" : `${figure(ms / d.latency_ms)}x`);
  const cells = ({ run, d }) => [
    ...(several ? [run.name] : []), d.folder, d.target, megabytes(d.size_bytes), milliseconds(d.latency_ms), milliseconds(d.predicted_latency_ms), speedUp(d.fp32_latency_ms, d),
    ...(pruned ? [speedUp(d.unpruned_latency_ms, d)] : []), speedUp(d.torch_latency_ms, d), percent(d.agreement_fp32), withUnit(d.kl_fp32, "nats"), verdict(d)];
  const columns = [...(several ? ["run"] : []), "folder", "target", "size", "latency", "predicted latency", "speed-up over FP32, same runtime", ...(pruned ? ["speed-up over unpruned FP32, same runtime"] : []), "speed-up over eager PyTorch", "agreement with FP32", "KL to FP32", "proof"];
  const where = [...new Set(rows.map(({ d }) => `${d.machine?.processor ?? "unknown processor"}, ${d.threads} thread(s)`))].join("; ");
  const commands = rows.flatMap(({ d }) => d.run ?? []);
  section("deploy", "Deployment", note(`Latencies at batch size 1 on ${where}; those of one row were measured alternately.`), table(columns, rows.map(cells)),
    element("h3", {}, "Commands that use the files"), element("pre", {}, [...new Set(commands)].join("\n")));
}
