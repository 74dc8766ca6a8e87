"""Check that a deployed file computes on this device what was simulated: python check.py [FILE]."""

import hashlib
import sys
import time
from pathlib import Path

import numpy as np
from load import load

here = Path(__file__).resolve().parent
lines = [line.split(" ", 4) for line in (here / "bundle.txt").read_text().splitlines()]
facts = {line[0]: " ".join(line[1:]) for line in lines}
rows = [(int(line[1]), int(line[2]), float(line[3]), line[4]) for line in lines if line[0] == "tensor"]
file = Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / facts["file"]
content, threads, n_images = file.read_bytes(), int(facts["threads"]), int(facts["images"])
kind, *sides = facts["input"].split(" ")
images = np.fromfile(here / "inputs.bin", kind).reshape(n_images, *map(int, sides))
expected = np.split(np.fromfile(here / "expected.bin", "<f4"), np.cumsum([n_images * count for count, *_ in rows])[:-1])

run = load(content + (here / "probes.bin").read_bytes(), threads)
computed = [run(image) for image in images]
same, first = 0, ""
for (count, stride, limit, name), values in zip(rows, expected, strict=True):
    target = values.reshape(n_images, count)
    actual = np.stack([outputs[name].reshape(-1)[: count * stride : stride] for outputs in computed])
    error = max(np.linalg.norm(actual - target, axis=1) / np.maximum(np.linalg.norm(target, axis=1), 1e-12))
    same = int((actual.argmax(1) == target.argmax(1)).sum())  # of the last tensor, which is the model's output
    if not error <= limit and not first:
        first = f"{name}: relative error {error:.4f}, at most {limit:.4f} expected"

run, times = load(content, threads), []
for _ in range(30):
    start = time.perf_counter()
    run(images[0])
    times.append(1000 * (time.perf_counter() - start))
proved = hashlib.sha256(content).hexdigest() == facts["sha256"]
print("file:", file, "(the one that was proved)" if proved else "(NOT the one that was proved)")
print(f"same decision as the simulation: {same} of {n_images} images")
print("first tensor that differs:", first or f"none of {len(rows)}")
print(f"latency: {np.median(times):.3f} ms, {threads} thread(s)")
sys.exit(bool(first))
