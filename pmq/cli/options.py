"""Flags that several commands share, with timm's spelling where timm has the same flag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Model: timm's arch.tag, hf:NAME, package.module:function, or a pruned model's folder (default: the embedded model)",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Unpruned model of a pruned MODEL, needed if it comes from a location or a function such as pkg:make",
    ),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Checkpoint: a safetensors file, or a torch file that contains only tensors")
]
NumClasses = Annotated[
    int | None, typer.Option(help="Number of classes, if it differs from the checkpoint's; 0 builds a feature extractor", min=0)
]
ModelKwargs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE ...",
        help="Further arguments of the function that creates the model, such as img_size=384 in_chans=1",
    ),
]
InputSize = Annotated[
    tuple[int, int, int] | None, typer.Option(metavar="C H W", help="Channels, height and width of the model's input images")
]
ImgSize = Annotated[int | None, typer.Option(help="Height and width of the model's input images", min=1)]
InChans = Annotated[int | None, typer.Option(help="Number of channels of the model's input images", min=1)]
GlobalPool = Annotated[str | None, typer.Option("--gp", help="Global pooling of timm models: token, avg, map, ...")]
Output = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Output to use if the model returns several: one name, or several separated by commas"),
]
Pretrained = Annotated[
    bool | None,
    typer.Option(
        "--pretrained/--no-pretrained",
        help="Without a checkpoint, use timm's published weights (default) or random ones",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="Images: a folder with train and val or with class folders, a table, a .tar archive or a timm dataset"),
]
Dataset = Annotated[str | None, typer.Option(help="Name of a timm dataset, such as torch/cifar10, stored below --data")]
InputKey = Annotated[str | None, typer.Option(help="Column of a table or dataset that contains the images")]
TargetKey = Annotated[str | None, typer.Option(help="Column of a table or dataset that contains the classes")]
ClassMap = Annotated[
    Path | None, typer.Option(help="Class map: a file with one class per line in the order of the model's outputs, or JSON")
]
ClassOrder = Annotated[
    str | None,
    typer.Option(help="Order of class folders whose names do not determine their classes: imagefolder (default) or natural"),
]
Split = Annotated[str | None, typer.Option(help="Folder or split to evaluate on")]
CropPct = Annotated[float | None, typer.Option(help="Crop fraction that overrides the data config's", min=0.1, max=1.0)]
Mean = Annotated[list[float] | None, typer.Option(metavar="M ...", help="Mean of each channel that overrides the data config's")]
Std = Annotated[
    list[float] | None, typer.Option(metavar="S ...", help="Standard deviation of each channel that overrides the data config's")
]
Interpolation = Annotated[
    str | None, typer.Option(help="Interpolation that overrides the data config's: bilinear, bicubic, lanczos, nearest, ...")
]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", help="Number of images per batch", min=1)]
Workers = Annotated[int, typer.Option("--workers", "-j", help="Number of processes that load images", min=0, max=1024)]
Threads = Annotated[int | None, typer.Option(help="Number of threads per operation (default: all cores)", min=1, max=1024)]
Device = Annotated[str, typer.Option(help="Device: cpu, cuda, cuda:1, mps")]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES", help="Memory not to exceed, such as 8GB: beyond, codes and statistics of weights are kept on disk"
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all random draws", min=0, max=2**32 - 1)]
CalibImages = Annotated[int, typer.Option(help="Number of calibration images", min=1)]
HeldOut = Annotated[int, typer.Option(help="Number of held-out images that measure sensitivity and evaluate candidates", min=1)]
Recipe = Annotated[str, typer.Option(help="Quantization recipe: minmax, percentile, mse, fast, best")]
Reconstruct = Annotated[
    bool, typer.Option("--reconstruct", help="Learn rounding and scales block by block, which is slower and more accurate")
]
Amp = Annotated[
    bool, typer.Option("--amp", help="Multiply in bfloat16 where products are not computed with integers, which is faster")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Spread the work over Ray: local (started here), auto (this machine's cluster) or an address; results are the same",
    ),
]
RayWorkers = Annotated[int | None, typer.Option(help="Number of workers (default: as many as there is room for)", min=1)]
RayCpus = Annotated[float, typer.Option(help="CPUs of a worker; its threads are those of --threads, by default as many", min=0)]
RayGpus = Annotated[float, typer.Option(help="GPUs of a worker, or a share of one", min=0)]
RayTimeout = Annotated[float, typer.Option(help="Seconds after which a task is repeated on another worker", min=0.001)]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN=BITS ...", help="Fixed bits of kinds, components or modules, such as head=8 or 'blocks.0.*=fp32'"
    ),
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Kinds, components or modules that stay in FP32; may be repeated")
]
MinBits = Annotated[int | None, typer.Option(help="Lower bound on all bit-widths", min=2, max=8)]
MaxBits = Annotated[int | None, typer.Option(help="Upper bound on all bit-widths", min=2, max=32)]
TieOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tie", metavar="P,P[@block]", help="Components that share their bits within @module, @block or @model; may be repeated"
    ),
]
Space = Annotated[str, typer.Option(help="Search space: default, w4a8, int8_fp32, or a YAML file")]
Target = Annotated[str, typer.Option(help="Runtime: onnxruntime, ...")]
Task = Annotated[
    str,
    typer.Option(
        help="Meaning of the outputs: classification, binary, multilabel, regression, features, dense, or auto (by their number)"
    ),
]
Partial = Annotated[bool, typer.Option("--partial", help="Continue even if less than half of the model can be quantized")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output and nothing else")]
