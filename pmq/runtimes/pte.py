"""ExecuTorch programs: replacement of a model's layers, lowering to XNNPACK, and reading of a file's layers."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
from executorch.exir._serialize._program import deserialize_pte_binary
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (it registers the operators of quantized graphs)

from pmq.cost.latency import PLAIN
from pmq.runtimes.layer import DeployLayer, nibbles
from pmq.runtimes.marker import marked

#: record of a layer's stored weight: hashes of its data and of its scales, number of weights, number of inputs per output
StoredWeight = dict[str, Any]


@dataclass(frozen=True)
class Skeleton:
    """Model whose layers are to be replaced, and its example input."""

    model: nn.Module
    image: Tensor


@dataclass(frozen=True)
class Built:
    """Lowered model with a record of each layer's stored weight."""

    edge: Any
    layers: dict[str, StoredWeight] = field(default_factory=dict)

    def program(self, texts: Mapping[str, str] | None = None) -> bytes:
        """Return the bytes of a file; ``texts`` become methods that return their bytes."""
        methods = {name: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) for name, text in (texts or {}).items()}
        edge = EdgeProgramManager(self.edge.exported_program(), methods, EdgeCompileConfig(_check_ir_validity=False))
        return bytes(edge.to_executorch().buffer)


class _Layer(nn.Module):
    """Layer as the operator patterns that XNNPACK's partitioner recognizes."""

    def __init__(self, layer: DeployLayer) -> None:
        super().__init__()
        self.bits, self.group, self.patch = layer.weight.bits, layer.weight.group_size, layer.patch
        self.integer = layer.codes is not None
        self.bias = None if layer.bias is None else nn.Parameter(torch.from_numpy(layer.bias.copy()), False)
        if layer.codes is not None and layer.scales is not None:
            scales = torch.from_numpy(np.ascontiguousarray(layer.scales, np.float32))
            scales = scales if self.group else scales[:, 0].contiguous()
            self.register_buffer("codes", torch.from_numpy(layer.codes.astype(np.int8)))
            self.register_buffer("scales", scales)
            self.register_buffer("zeros", torch.zeros(scales.shape, dtype=torch.int64))
        else:
            self.weight = nn.Parameter(torch.from_numpy(np.array(layer.value, np.float32)), False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        if self.patch:
            return nn.functional.conv2d(x, self.weight, self.bias, self.patch)
        if not self.integer:
            return nn.functional.linear(x, self.weight, self.bias)
        ops = torch.ops.quantized_decomposed
        scale, zero = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
        x = ops.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
        x = ops.dequantize_per_token(x, scale, zero, -128, 127, torch.int8, torch.float32)
        grid = (self.codes, self.scales, self.zeros)
        ends = (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1, torch.int8)
        if self.group:
            weight = ops.dequantize_per_channel_group(*grid, *ends, self.group, torch.float32)
        else:
            weight = ops.dequantize_per_channel(*grid, 0, *ends)
        return nn.functional.linear(x, weight, self.bias)


def single(layer: DeployLayer, shape: tuple[int, ...]) -> Skeleton:
    """Return a skeleton that consists of one layer, whose input has ``shape``."""
    alone = nn.Sequential()
    parent: nn.Module = alone
    for part in layer.name.split("."):
        child = nn.Sequential()
        parent.add_module(part, child)
        parent = child
    return Skeleton(alone, torch.zeros(shape))


def build(skeleton: Skeleton, layers: Sequence[DeployLayer]) -> Built:
    """Replace the layers and lower the model, which takes half a minute for DeiT-Tiny."""
    named = {layer.name: layer for layer in layers}
    model = marked(skeleton.model, named, lambda name, _: _Layer(named[name])).eval()
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (skeleton.image,))
            config = EdgeCompileConfig(_check_ir_validity=False)
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], compile_config=config)
    finally:
        logging.disable(before)
    return Built(edge, {layer.name: _stored_weight(layer) for layer in layers})


def _stored_weight(layer: DeployLayer) -> StoredWeight:
    if layer.codes is None:
        value = np.ascontiguousarray(layer.value, np.float32)
        if layer.patch:  # XNNPACK's layout of convolutions; it treats one with a single channel as depthwise
            value = value.transpose((1, 2, 3, 0) if value.shape[1] == 1 else (0, 2, 3, 1))
        return {"data": _hash(value), "weights": int(value.size)}
    codes, group = layer.codes.astype(np.int8), layer.weight.group_size
    data = nibbles(codes + 8) if layer.weight.bits == 4 else codes
    scales = np.ascontiguousarray(layer.scales, np.float32)
    held: Any = torch.from_numpy(scales).to(torch.bfloat16).view(torch.int16).numpy() if group else scales
    return {"data": _hash(data), "scales": f"scale_{_hash(held)}", "weights": int(codes.size), "inputs": codes.shape[1]}


def _hash(data: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def read_layers(program: bytes, layers: Mapping[str, StoredWeight]) -> dict[str, str]:
    """Return each layer's :func:`pmq.cost.latency.layer_key`, from the number of bytes stored under its weight's hashes."""
    named = deserialize_pte_binary(program).named_data
    data = {} if named is None else {key: named.buffers[entry.buffer_index] for key, entry in named.pte_data.items()}
    modes = {}
    for name, record in layers.items():
        held = data.get(record["data"], b"")
        bits = 8 * len(held) // record["weights"]
        if hashlib.sha256(held).hexdigest() != record["data"]:
            modes[name] = "missing"
        elif bits == 32:
            modes[name] = PLAIN
        else:
            scales, outputs = data.get(record["scales"], b""), record["weights"] // record["inputs"]
            blocks = len(scales) // (2 * outputs)  # group scales are bfloat16, scales per output are FP32
            group = "" if len(scales) == 4 * outputs else f"-group{record['inputs'] // max(1, blocks)}"
            modes[name] = f"w{bits}{group} x 8-dynamic"
    return modes
