// The page: load the model once, then answer for every picture that is dropped or chosen.
import * as ort from "./ort.wasm.min.mjs";

const TOP = 5;
const facts = JSON.parse(document.getElementById("facts").textContent);
const by = (id) => document.getElementById(id);
ort.env.wasm.numThreads = 1; // more need headers that plain servers do not send

function answers(outputs) {
  const named = (shares) => Array.from(shares, (share, i) => ({ name: facts.classes[i] ?? String(i), index: i, share }));
  if (facts.task === "regression") return named(outputs);
  if (facts.task === "multilabel") return best(named(Array.from(outputs, (x) => 1 / (1 + Math.exp(-x)))));
  const logits = facts.task === "binary" ? [0, outputs[0]] : Array.from(outputs);
  const most = Math.max(...logits), powers = logits.map((x) => Math.exp(x - most)), sum = powers.reduce((a, b) => a + b, 0);
  return best(named(powers.map((x) => x / sum)));
}

function best(rows) {
  return rows.sort((a, b) => b.share - a.share).slice(0, TOP);
}

function show(rows) {
  by("answers").replaceChildren(...rows.map(({ name, index, share }) => {
    const row = document.createElement("tr"), label = document.createElement("td"), figure = document.createElement("td");
    label.textContent = name;
    row.dataset.index = index;
    const bounded = facts.task !== "regression";
    figure.textContent = bounded ? `${(100 * share).toFixed(1)} %` : share.toPrecision(4);
    if (bounded) {
      const bar = label.appendChild(document.createElement("div"));
      bar.className = "bar";
      bar.style.width = `${100 * share}%`;
    }
    row.append(label, figure);
    return row;
  }));
}

function draw(image) {
  const canvas = by("picture");
  Object.assign(canvas, { width: image.width, height: image.height, hidden: false });
  const pixels = new ImageData(image.width, image.height);
  for (let i = 0; i < image.width * image.height; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = image.values[i * image.channels + Math.min(c, image.channels - 1)];
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return withChannels(data, bitmap.width, bitmap.height, facts.input_size[0]);
}

async function classify(session, file) {
  let picture;
  try {
    picture = prepared(await pixelsOf(file), facts);
  } catch {
    by("state").textContent = `${file.name} is no picture that this browser can read.`;
    return;
  }
  draw(picture);
  const { data, shape, type } = tensorOf(picture, facts);
  const start = performance.now();
  const outputs = (await session.run({ [session.inputNames[0]]: new ort.Tensor(type, data, shape) }))[session.outputNames[0]].data;
  const ms = performance.now() - start;
  show(answers(outputs));
  by("state").textContent = `${(facts.bytes / 1e6).toFixed(2)} MB, ${ms.toFixed(1)} ms in this browser, one thread.`;
  document.body.dataset.answered = file.name;
}

async function main() {
  by("name").textContent = facts.name;
  document.title = `${facts.name}: pmq demo`;
  const session = await ort.InferenceSession.create("./model.onnx", { executionProviders: ["wasm"] });
  by("state").textContent = `Ready: ${(facts.bytes / 1e6).toFixed(2)} MB.`;
  const drop = by("drop");
  by("file").addEventListener("change", (event) => event.target.files[0] && classify(session, event.target.files[0]));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files[0]) classify(session, event.dataTransfer.files[0]);
    });
  }
  document.body.dataset.ready = "";
}

main().catch((error) => {
  by("state").textContent = `The model cannot be loaded: ${error.message ?? error}`;
});
