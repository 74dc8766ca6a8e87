"""Files of few bits: ``python -m pmq.bench.packed RUN MODEL --data D [--sizes 1.8 2.3 ...] [--uniform 2 3 ...] --out FILE.csv``.

A finished search is solved for several sizes, and every allocation is deployed, beside files of uniform bits. A row has the size
of the file, the size after deflate (what an archive or an app store does), the same of the file with its weights unpacked (to
int8 where layers multiply integers, else to FP32), and what the *file* decides on the evaluation images. Latency and loading are
relative to the file of W8A8, timed in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

import pmq
from pmq.core.files import write_csv
from pmq.core.progress import message
from pmq.runtimes import TARGETS, Session
from pmq.runtimes.deployment import Deployment
from pmq.runtimes.timing import interleaved

#: number of calibration images, and of timed calls and loads of each file
N_CALIBRATION, ROUNDS, N_LOADS = 32, 40, 9


def deflated(content: bytes) -> int:
    """Return the bytes that deflate leaves, as in a zip archive."""
    return len(zlib.compress(content, 9))


def unpacked(file: Path) -> bytes:
    """Return the ONNX file in which onnxruntime has computed all constants."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "unpacked.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
        return (Path(folder) / "unpacked.onnx").read_bytes()


def row_of(name: str, deployment: Deployment, folder: Path) -> dict[str, Any]:
    """Return the figures of a deployed file that do not depend on others."""
    file = folder / deployment.file
    content = file.read_bytes()
    return {
        "allocation": name,
        "status": deployment.status,
        "promised_mb": deployment.promised_bytes / 1e6,
        "mb": len(content) / 1e6,
        "deflated_mb": deflated(content) / 1e6,
        "unpacked_deflated_mb": deflated(unpacked(file)) / 1e6,
        "agreement": deployment.agreement_fp32,
        "kl": deployment.kl_fp32,
        "agreement_simulated": deployment.agreement_simulated,
    }


def relative_speed(files: dict[str, Path], target: str, reference: str, image: Tensor) -> dict[str, dict[str, float]]:
    """Return latency and load time of files as shares of those of ``reference``, in turns on one thread."""
    runtime, x = TARGETS[target], image.numpy()
    sessions: dict[str, Session] = {name: runtime.session(file) for name, file in files.items()}
    calls: dict[str, Callable[[], object]] = {name: partial(session, x) for name, session in sessions.items()}
    latency = {name: float(np.median(times)) for name, times in interleaved(calls, ROUNDS).items()}
    loads: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(N_LOADS):
        for name, file in files.items():
            start = time.perf_counter()
            runtime.session(file)
            loads[name].append(1000 * (time.perf_counter() - start))
    load = {name: float(np.median(times)) for name, times in loads.items()}
    return {
        name: {
            "latency_ms": latency[name],
            "latency_ratio": latency[name] / latency[reference],
            "load_ms": load[name],
            "load_ratio": load[name] / load[reference],
        }
        for name in files
    }


def main() -> None:
    """Deploy, measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("model")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--sizes", type=float, nargs="*", default=[1.8, 2.3, 2.8, 3.5, 4.5, 6.0], help="megabytes")
    parser.add_argument("--uniform", nargs="*", default=["w2a8", "w3a8", "w4a8", "w5a8", "w6a8"])
    parser.add_argument("--limit", type=int, default=623, help="number of evaluation images")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = pmq.create_model(args.model, checkpoint=args.checkpoint)
    config = {} if args.crop_pct is None else {"crop_pct": args.crop_pct}
    data = pmq.open_images(args.data, model, data_config=config)
    calibration = data.calibration_images(N_CALIBRATION, 0)
    proof = data.evaluation.first_readable(range(len(data.evaluation)), min(args.limit, len(data.evaluation)))
    whats: dict[str, Any] = {"w8a8": "w8a8", **{name: name for name in args.uniform}}
    for size in args.sizes:
        try:
            whats[f"size={size:g}MB"] = pmq.resolve(args.run, f"size={size:g}MB")[1]
        except pmq.PmqError as error:
            message(str(error))
    whats["the run's own"] = args.run
    rows, files = list[dict[str, Any]](), dict[str, Path]()
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, what) in enumerate(whats.items()):
            out = Path(folder) / str(i)
            done = pmq.deploy(
                model,
                what,
                args.target,
                proof,
                out,
                calibration_images=calibration,
                recalibrate=not isinstance(what, str | Path),
                crop_pct=args.crop_pct,
                n_passes=3,
            )
            rows.append(row_of(name, done, out))
            files[name] = out / done.file
            message(str(rows[-1]))
        speed = relative_speed(files, args.target, "w8a8", proof[:1])
        table = pd.DataFrame([row | speed[row["allocation"]] for row in rows])
    write_csv(args.out, table)
    print(table.to_string())


if __name__ == "__main__":
    main()
