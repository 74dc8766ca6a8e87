"""Mutations of checkpoints, images and deployed files by their own libraries."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

from tests.campaigns.blobs import mutate_bytes
from tests.campaigns.formats import safetensors_header, tensors
from tests.campaigns.hostile import ARGUMENTS, NUMBERS, TEXTS
from tests.campaigns.trees import mutate_tree, short, to_json


def checkpoint(rng: Random, path: Path) -> str:
    """A checkpoint of other tensors, of other things, or with another header."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load, save

        if rng.random() < 0.4:
            return safetensors_header(rng, path)
        named = load(path.read_bytes())
        said = tensors(rng, named)
        path.write_bytes(save(named))
        return said
    return _torch_file(rng, path)


def _torch_file(rng: Random, path: Path) -> str:
    import torch

    state: dict[str, Any] = torch.load(path, weights_only=True)
    if rng.random() < 0.5:
        named = {name: tensor.numpy() for name, tensor in state.items()}
        said = tensors(rng, named)
        torch.save({name: torch.from_numpy(array.copy()) for name, array in named.items() if array.dtype.kind in "fiub"}, path)
        return said
    key = rng.choice(list(state))
    things: dict[str, Any] = {
        "a number": 3,
        "a text": "x",
        "a list": list(state.values()),
        "nothing": None,
        "a mapping of nothing": {},
        "keys that are numbers": dict(enumerate(state.values())),
        "nested": {"state_dict": {"model": state}},
        "below state_dict": {"state_dict": state, "epoch": 3},
        "below model_ema": {"model_ema": {f"module.{k}": v for k, v in state.items()}},
        "module. before names": {f"module.{k}": v for k, v in state.items()},
        "a text among tensors": state | {key: "x"},
        "a list among tensors": state | {key: state[key].tolist()},
        "sparse": state | {key: state[key].to_sparse()},
        "complex": state | {key: state[key].to(torch.complex64)},
        "meta": state | {key: state[key].to("meta")},
        "a view": state | {key: state[key].expand(2, *state[key].shape)[0]},
        "bfloat16": {k: v.bfloat16() for k, v in state.items()},
        "a parameter": state | {key: torch.nn.Parameter(state[key])},
        "a module": torch.nn.Linear(2, 2),
        "code": io.BytesIO,
    }
    name = rng.choice(list(things))
    torch.save(things[name], path, _use_new_zipfile_serialization=rng.random() < 0.7)
    return name


def image(rng: Random, path: Path) -> str:
    """An image of another format, mode or size, or one whose header lies."""
    from PIL import Image

    format_, mode = rng.choice(
        [("PNG", m) for m in ("L", "RGB", "RGBA", "P", "1", "I;16", "LA", "I")]
        + [("JPEG", m) for m in ("L", "RGB", "CMYK")]
        + [("TIFF", m) for m in ("F", "I;16", "L", "RGBA", "CMYK", "LAB")]
        + [("GIF", "P"), ("BMP", "RGB"), ("BMP", "1"), ("WEBP", "RGBA"), ("PPM", "L"), ("ICO", "RGBA"), ("TGA", "RGBA")]
    )
    size = rng.choice([(28, 28), (28, 28), (1, 1), (1, 300), (3000, 1), (28, 29), (64, 17), (2, 2), (255, 255)])
    if rng.random() < 0.25:
        width, height = rng.choice(
            [(0, 5), (2**31 - 1, 1), (40_000, 40_000), (2**31 - 1, 2**31 - 1), (14_000, 9_000), (28, 2**20)]
        )
        path.write_bytes(_png(width, height))
        return f"PNG that calls itself {width}x{height}"
    with Image.open(path) as opened:
        plain = opened.convert("L").resize(size)
    made = plain.convert("RGB").convert(mode) if mode not in ("I;16", "F", "I", "LAB", "LA") else Image.new(mode, size)
    data = io.BytesIO()
    try:
        made.save(data, format_)
    except (OSError, ValueError, SystemError):
        plain.save(data, "PNG")
    raw = bytearray(data.getvalue())
    if damaged := rng.random() < 0.5:
        for _ in range(rng.choice([1, 2, 8])):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    path.write_bytes(raw[: rng.randrange(1, len(raw) + 1)] if rng.random() < 0.2 else raw)
    return f"{format_} {mode} {size}{' damaged' if damaged else ''}"


def archive(rng: Random, path: Path) -> str:
    """A tar archive one of whose members says something else of itself, or of its class, or is a picture of another kind."""
    with tarfile.open(path) as opened:
        members = [(member, (opened.extractfile(member) or io.BytesIO()).read()) for member in opened]
    at = rng.randrange(len(members))
    member, content = members[at]
    how = rng.choice(["size", "name", "type", "content", "content", "content", "lost", "twice"])
    if how == "name":
        member.name = rng.choice(
            ["", "..", "/etc/passwd", "../" * 40 + "x.png", "\udcff.png", "a" * 300 + ".cls", ".cls", "0.tar"]
        )
    elif how == "type":
        member.type = rng.choice([tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
        member.linkname = "/dev/zero"
    elif how == "content":
        other = rng.choice([repr(rng.choice(NUMBERS)), rng.choice(ARGUMENTS)]).encode("utf-8", "surrogateescape")
        content = other if member.name.endswith(".cls") else mutate_bytes(rng, content)[0]
    members[at] = (member, content)
    members = members[:at] + members[at + 1 :] if how == "lost" else members + members[at : at + 1] if how == "twice" else members
    with tarfile.open(path, "w", errors="surrogateescape") as made:
        for each, of in members:
            each.size = rng.choice([0, len(of) // 2]) if how == "size" and each is member else len(of)
            made.addfile(each, io.BytesIO(of))
    return f"{member.name[:40]!r}: {how}"


def _png(width: int, height: int) -> bytes:
    """A header that promises any size, and hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def onnx_model(rng: Random, path: Path) -> str:
    """A deployed file with other properties, constants or nodes."""
    import onnx

    model = onnx.load(path)
    said = _properties(rng, model) if rng.random() < 0.6 else _graph(rng, model.graph)
    path.write_bytes(model.SerializeToString())
    return said


def _properties(rng: Random, model: Any) -> str:
    prop = rng.choice(list(model.metadata_props))
    how = rng.choice(["value", "value", "value", "text", "key", "gone", "twice"])
    if how == "value":
        try:
            tree, said = mutate_tree(rng, json.loads(prop.value))
        except ValueError:
            tree, said = prop.value[::-1], "reversed"
        prop.value = to_json(tree)
        return f"{prop.key} {said}"
    texts = [text for text in TEXTS if "\ud800" not in text and "\udfff" not in text]
    if how == "text":
        prop.value = rng.choice(texts)
    elif how == "key":
        prop.key = rng.choice(texts)
    elif how == "gone":
        model.metadata_props.remove(prop)
    else:
        model.metadata_props.add(key=prop.key, value=rng.choice(texts))
    return f"{prop.key} {how}: {short(prop.value)}"


def _graph(rng: Random, graph: Any) -> str:
    node, constant = rng.choice(list(graph.node)), rng.choice(list(graph.initializer))
    how = rng.choice(["op", "node", "input", "data", "flip", "dims", "type", "constant", "shape", "inputs", "output", "name"])
    if how == "op":
        node.op_type = rng.choice(["MatMul", "Add", "Softmax", "Transpose", "Gather", "Magic", ""])
    elif how == "node":
        graph.node.remove(node)
    elif how == "input" and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(["", "nothing", graph.initializer[0].name, graph.input[0].name])
    elif how == "data":
        constant.raw_data = constant.raw_data[: rng.randrange(len(constant.raw_data) + 1)]
    elif how == "flip" and constant.raw_data:
        data = bytearray(constant.raw_data)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        constant.raw_data = bytes(data)
    elif how == "dims":
        constant.dims.append(rng.choice([0, 1, 2, -1, 2**40]))
    elif how == "type":
        constant.data_type = rng.choice([0, 1, 2, 3, 7, 10, 11, 16, 22, 99])
    elif how == "constant":
        graph.initializer.remove(constant)
    elif how == "shape":
        graph.input[0].type.tensor_type.shape.dim[rng.randrange(4)].dim_value = rng.choice([0, 1, 2, 27, 2**40, -1])
    elif how == "inputs":
        graph.input.add().CopyFrom(graph.input[0])
    elif how == "output":
        graph.output[0].name = rng.choice([constant.name, node.output[0] if node.output else "", "nothing", ""])
    else:
        constant.name = "renamed"
    return f"graph: {how} of {node.name!r} or {constant.name!r}"
