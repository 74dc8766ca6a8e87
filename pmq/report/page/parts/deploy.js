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
  const cells = ({ run, d }) => [
    ...(runs.length > 1 ? [run.name] : []), d.folder, d.target, megabytes(d.size_bytes), milliseconds(d.latency_ms), milliseconds(d.predicted_latency_ms), milliseconds(d.fp32_latency_ms),
    `${figure(d.fp32_latency_ms / d.latency_ms)}x`, `${figure(d.torch_latency_ms / d.latency_ms)}x`, percent(d.agreement_fp32), figure(d.kl_fp32), verdict(d)];
  const columns = [...(runs.length > 1 ? ["run"] : []), "folder", "target", "size", "latency", "predicted", "FP32, same runtime", "faster than FP32", "faster than eager PyTorch", "agreement with FP32", "KL (nats)", "proof"];
  const commands = rows.flatMap(({ d }) => d.run ?? []);
  section("deploy", "Deploy", note("One image at a time, on the machine that deployed; latencies of a row were measured in turns."), table(columns, rows.map(cells)),
    element("h3", {}, "To use a file"), element("pre", {}, [...new Set(commands)].join("\n")));
}
