// Check that a deployed file computes on this device what was simulated: node check.mjs [FILE]
// Needs `npm install onnxruntime-node`, or onnxruntime-web, which is what browsers run.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const ort = await import("onnxruntime-node").catch(() => import("onnxruntime-web"));
const at = (name) => new URL(name, import.meta.url);
const lines = readFileSync(at("bundle.txt"), "utf8").trim().split("\n").map((line) => line.split(" "));
const facts = Object.fromEntries(lines.map(([key, ...rest]) => [key, rest]));
const rows = lines.filter(([key]) => key === "tensor").map(([, count, stride, limit, ...name]) => [+count, +stride, +limit, name.join(" ")]);
const file = process.argv[2] ?? at(`../${facts.file.join(" ")}`);
const content = readFileSync(file), [threads, nImages] = [+facts.threads[0], +facts.images[0]];
const [kind, ...sides] = facts.input, shape = sides.map(Number), size = shape.reduce((a, b) => a * b);
const numbers = (name, type) => { const bytes = readFileSync(at(name)); return new type(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)); };
const images = numbers("inputs.bin", kind === "uint8" ? Uint8Array : Float32Array), expected = numbers("expected.bin", Float32Array);

const options = { intraOpNumThreads: threads };
if (ort.env?.wasm) ort.env.wasm.numThreads = threads;
const load = (bytes) => ort.InferenceSession.create(new Uint8Array(bytes), options);
const image = (i) => new ort.Tensor(kind, images.slice(i * size, (i + 1) * size), shape);
let session = await load(Buffer.concat([content, readFileSync(at("probes.bin"))]));
const computed = [];
for (let i = 0; i < nImages; i++) computed.push(await session.run({ [session.inputNames[0]]: image(i) }));
const best = (values) => values.indexOf(values.reduce((a, b) => Math.max(a, b)));
let same = 0, first = "", start = 0;
for (const [count, stride, limit, name] of rows) {
  let error = 0;
  same = 0; // of the last tensor, which is the model's output
  for (let i = 0; i < nImages; i++, start += count) {
    const target = expected.subarray(start, start + count), data = computed[i][name].data;
    const actual = target.map((_, j) => data[j * stride]);
    const norm = Math.hypot(...target), off = Math.hypot(...target.map((value, j) => value - actual[j]));
    error = Math.max(error, off / Math.max(norm, 1e-12));
    if (!Number.isFinite(off)) error = Infinity;
    same += best(actual) === best(target) ? 1 : 0;
  }
  if (error > limit && !first) first = `${name}: relative error ${error.toFixed(4)}, at most ${limit.toFixed(4)} expected`;
}
session = await load(content);
const times = [];
for (let i = 0; i < 30; i++) {
  const begin = performance.now();
  await session.run({ [session.inputNames[0]]: image(0) });
  times.push(performance.now() - begin);
}
const proved = createHash("sha256").update(content).digest("hex") === facts.sha256[0];
console.log(`file: ${file} (${proved ? "the" : "NOT the"} one that was proved)`);
console.log(`same decision as the simulation: ${same} of ${nImages} images`);
console.log(`first tensor that differs: ${first || `none of ${rows.length}`}`);
console.log(`latency: ${times.sort((a, b) => a - b)[15].toFixed(3)} ms, ${threads} thread(s)`);
process.exitCode = first ? 1 : 0;
