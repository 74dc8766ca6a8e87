// Resizing and cropping of pictures as `pmq run` does it: separable filters that widen where they shrink, rounded to 8 bits after
// each axis.
"use strict";

// weights are integers of this unit, as in Pillow, so that results are the same to the bit
const ONE = 2 ** 22;

const FILTERS = {
  box: { support: 0.5, at: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  hamming: { support: 1, at: (x) => (x === 0 ? 1 : Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x))) },
  bicubic: { support: 2, at: (x) => cubic(Math.abs(x), -0.5) },
  lanczos: { support: 3, at: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function cubic(x, a) {
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// For each of `to` places, where its inputs among `from` begin and their weights.
function weightsOf(from, to, name) {
  const scale = from / to, filter = FILTERS[name], stretch = Math.max(scale, 1);
  let nearest = 0.5 * scale; // added up as Pillow does, which decides between two that are equally near
  return Array.from({ length: to }, (_, place) => {
    if (name === "nearest") {
      const start = Math.min(from - 1, Math.floor(nearest));
      nearest += scale;
      return { start, weights: [ONE] };
    }
    const center = (place + 0.5) * scale;
    const reach = filter.support * stretch;
    const start = Math.max(0, Math.trunc(center - reach + 0.5)), end = Math.min(from, Math.trunc(center + reach + 0.5));
    const weights = Array.from({ length: end - start }, (_, i) => filter.at((start + i - center + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { start, weights: weights.map((w) => Math.trunc((w / sum) * ONE + Math.sign(w) * 0.5)) };
  });
}

// Resize `image` ({width, height, channels, values: Uint8Array in rows of pixels}).
function resize(image, width, height, name) {
  let { values } = image;
  const { channels } = image;
  if (width !== image.width) values = along(values, image.height, image.width, channels, weightsOf(image.width, width, name), 1);
  if (height !== image.height) values = along(values, width, image.height, channels, weightsOf(image.height, height, name), 0);
  return { width, height, channels, values };
}

function along(values, others, length, channels, places, horizontal) {
  const result = new Uint8Array(others * places.length * channels);
  for (let other = 0; other < others; other++) {
    places.forEach(({ start, weights }, place) => {
      for (let c = 0; c < channels; c++) {
        let sum = ONE / 2;
        for (let i = 0; i < weights.length; i++) {
          const at = horizontal ? other * length + start + i : (start + i) * others + other;
          sum += weights[i] * values[at * channels + c];
        }
        const to = horizontal ? other * places.length + place : place * others + other;
        result[to * channels + c] = Math.min(255, Math.max(0, Math.floor(sum / ONE)));
      }
    });
  }
  return result;
}

// Round halves to even numbers, as Python does.
function roundEven(x) {
  const rounded = Math.round(x);
  return Math.abs(x % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// The size to which a picture is resized before the crop.
function resizedTo(width, height, facts) {
  const [, high, wide] = facts.input_size;
  const w = Math.trunc(wide / facts.crop_pct), h = Math.trunc(high / facts.crop_pct);
  if (facts.crop_mode === "squash") return [w, h];
  let ratio;
  if (facts.crop_mode === "border") ratio = Math.max(width / w, height / h);
  else if (w !== h) ratio = Math.min(width / w, height / h);
  else {
    const short = Math.min(width, height);
    return [Math.trunc((w * width) / short), Math.trunc((h * height) / short)];
  }
  return [Math.max(roundEven(width / ratio), 1), Math.max(roundEven(height / ratio), 1)];
}

function offset(side, length) {
  return length >= side ? -roundEven((length - side) / 2) : Math.floor((side - length) / 2);
}

// The picture as the model sees it: resized and cropped, 8 bits.
function prepared(image, facts) {
  const [channels, height, width] = facts.input_size;
  const [w, h] = resizedTo(image.width, image.height, facts);
  const resized = resize(image, w, h, facts.interpolation);
  const edge = facts.mean.map((m) => (facts.crop_mode === "border" ? roundEven(255 * Math.min(Math.max(m, 0), 1)) : 0));
  const values = new Uint8Array(width * height * channels);
  const left = offset(width, w), top = offset(height, h);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const inside = x >= left && x < left + w && y >= top && y < top + h;
      for (let c = 0; c < channels; c++) {
        const from = ((y - top) * w + x - left) * channels + c;
        values[(y * width + x) * channels + c] = inside ? resized.values[from] : edge[c];
      }
    }
  }
  return { width, height, channels, values };
}

// The channels of a picture from the red, green, blue and opaque values of a canvas.
function withChannels(rgba, width, height, channels) {
  const values = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) values[i] = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
    else values.set([r, g, b], 3 * i);
  }
  return { width, height, channels, values };
}

// The input of the model's file: pixel values or normalized ones, channels first or last.
function tensorOf(image, facts) {
  const { width, height, channels, values } = image, count = width * height;
  const floats = facts.values === "float", data = new (floats ? Float32Array : Uint8Array)(values.length);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < channels; c++) {
      const to = facts.layout === "nchw" ? c * count + i : i * channels + c;
      const value = values[i * channels + c];
      data[to] = floats ? (value / 255 - facts.mean[c]) / facts.std[c] : value;
    }
  }
  const shape = facts.layout === "nchw" ? [1, channels, height, width] : [1, height, width, channels];
  return { data, shape, type: floats ? "float32" : "uint8" };
}

if (typeof module !== "undefined") module.exports = { prepared, tensorOf, withChannels };
