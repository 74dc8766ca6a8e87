"""Flags that several commands share, spelled as timm spells them where it has them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="timm's arch.tag, hf:NAME, or package.module:function; without it the embedded model"),
]
Base = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="what a pruned MODEL was made of, where that is a place or a function, such as pkg:make"),
]
Checkpoint = Annotated[Path | None, typer.Option(help="safetensors, or a torch file of tensors only")]
NumClasses = Annotated[int | None, typer.Option(help="overrides the number of classes; 0 makes a feature extractor", min=0)]
ModelKwargs = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE ...", help="further arguments of what makes the model, such as img_size=384 in_chans=1"),
]
InputSize = Annotated[
    tuple[int, int, int] | None, typer.Option(metavar="C H W", help="channels, height and width of the images that it is to see")
]
ImgSize = Annotated[int | None, typer.Option(help="height and width of the images that it is to see", min=1)]
InChans = Annotated[int | None, typer.Option(help="channels of the images that it is to see", min=1)]
GlobalPool = Annotated[str | None, typer.Option("--gp", help="global pooling of timm's models: token, avg, map, ...")]
Output = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="which output counts, where there are several: a name, or some with commas"),
]
Pretrained = Annotated[
    bool | None,
    typer.Option(
        "--pretrained/--no-pretrained", help="without a checkpoint: timm's published weights, the default, or random ones"
    ),
]
Data = Annotated[str | None, typer.Option(help="folder with train and val, or class folders; or a timm dataset, torch/cifar10")]
Dataset = Annotated[str | None, typer.Option(help="one of timm's datasets, such as torch/cifar10, below --data if that is given")]
InputKey = Annotated[str | None, typer.Option(help="column of the images, of a table or a dataset")]
TargetKey = Annotated[str | None, typer.Option(help="column of the classes, of a table or a dataset")]
ClassMap = Annotated[Path | None, typer.Option(help="file with a class a line, in the order of the model's outputs; or JSON")]
ClassOrder = Annotated[
    str | None, typer.Option(help="order of folders that no name tells of: imagefolder, the default, or natural")
]
Split = Annotated[str | None, typer.Option(help="folder or split to evaluate on")]
CropPct = Annotated[float | None, typer.Option(help="overrides the data config's crop", min=0.1, max=1.0)]
Mean = Annotated[list[float] | None, typer.Option(metavar="M ...", help="overrides the data config's mean of each channel")]
Std = Annotated[
    list[float] | None, typer.Option(metavar="S ...", help="overrides the data config's standard deviation of each channel")
]
Interpolation = Annotated[str | None, typer.Option(help="overrides the data config's: bilinear, bicubic, lanczos, nearest, ...")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", help="images at once", min=1)]
Workers = Annotated[int, typer.Option("--workers", "-j", help="processes that read images ahead", min=0, max=1024)]
Threads = Annotated[int | None, typer.Option(help="threads of one operation; all cores by default", min=1, max=1024)]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps")]
Seed = Annotated[int, typer.Option(help="of every random draw", min=0, max=2**32 - 1)]
CalibImages = Annotated[int, typer.Option(help="images that fix ranges", min=1)]
HeldOut = Annotated[int, typer.Option(help="further images that measure sensitivity and judge candidates", min=1)]
Recipe = Annotated[str, typer.Option(help="how the model is quantized: minmax, percentile, mse, fast, best")]
Reconstruct = Annotated[bool, typer.Option("--reconstruct", help="learn rounding and scales, block by block: slower, better")]
Amp = Annotated[bool, typer.Option("--amp", help="multiply in bfloat16 what is not multiplied as integers: faster")]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN=BITS ...", help="bits that stay, as head=8 or 'blocks.0.*=fp32': kinds, components or modules"),
]
Exclude = Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="what stays in FP32; several times for several")]
MinBits = Annotated[int | None, typer.Option(help="fewest bits of anything", min=2, max=8)]
MaxBits = Annotated[int | None, typer.Option(help="most bits of anything", min=2, max=32)]
TieOption = Annotated[
    list[str] | None,
    typer.Option("--tie", metavar="P,P[@block]", help="what has the same bits, within @module, @block or @model"),
]
Space = Annotated[str, typer.Option(help="search space: default, w4a8, int8_fp32, or a YAML file")]
Target = Annotated[str, typer.Option(help="runtime: onnxruntime")]
Task = Annotated[
    str,
    typer.Option(
        help="what outputs mean: classification, binary, multilabel, regression, features, dense; auto goes by their number"
    ),
]
Partial = Annotated[bool, typer.Option("--partial", help="go on though less than half of the model can be quantized")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output, nothing else")]
