"""Programs of ExecuTorch: a model with its layers replaced, lowered to XNNPACK; what a file holds."""

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

#: a layer's weight in a file: hashes of its data and of its scales, how many weights and how many of them to an output
Where = dict[str, Any]


@dataclass(frozen=True)
class Skeleton:
    """A model whose layers are to be replaced, and what it is given."""

    model: nn.Module
    image: Tensor


@dataclass(frozen=True)
class Built:
    """A lowered model, and where each layer's weight is in it."""

    edge: Any
    layers: dict[str, Where] = field(default_factory=dict)

    def program(self, texts: Mapping[str, str] | None = None) -> bytes:
        """The bytes of a file; ``texts`` become methods that give their bytes."""
        methods = {name: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) for name, text in (texts or {}).items()}
        edge = EdgeProgramManager(self.edge.exported_program(), methods, EdgeCompileConfig(_check_ir_validity=False))
        return bytes(edge.to_executorch().buffer)


class _Layer(nn.Module):
    """A layer as the patterns of operators that XNNPACK's partitioner looks for."""

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
        given = (self.codes, self.scales, self.zeros)
        ends = (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1, torch.int8)
        if self.group:
            weight = ops.dequantize_per_channel_group(*given, *ends, self.group, torch.float32)
        else:
            weight = ops.dequantize_per_channel(*given, 0, *ends)
        return nn.functional.linear(x, weight, self.bias)


def single(layer: DeployLayer, shape: tuple[int, ...]) -> Skeleton:
    """A model of nothing but one layer, whose input has ``shape``."""
    alone = nn.Sequential()
    parent: nn.Module = alone
    for part in layer.name.split("."):
        child = nn.Sequential()
        parent.add_module(part, child)
        parent = child
    return Skeleton(alone, torch.zeros(shape))


def build(skeleton: Skeleton, layers: Sequence[DeployLayer]) -> Built:
    """Replace the layers and lower the whole; half a minute for DeiT-Tiny."""
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
    return Built(edge, {layer.name: _where(layer) for layer in layers})


def _where(layer: DeployLayer) -> Where:
    if layer.codes is None:
        value = np.ascontiguousarray(layer.value, np.float32)
        if layer.patch:  # as XNNPACK has its convolutions; one of a single channel is depthwise to it
            value = value.transpose((1, 2, 3, 0) if value.shape[1] == 1 else (0, 2, 3, 1))
        return {"data": _hash(value), "weights": int(value.size)}
    codes, group = layer.codes.astype(np.int8), layer.weight.group_size
    data = nibbles(codes + 8) if layer.weight.bits == 4 else codes
    scales = np.ascontiguousarray(layer.scales, np.float32)
    held: Any = torch.from_numpy(scales).to(torch.bfloat16).view(torch.int16).numpy() if group else scales
    return {"data": _hash(data), "scales": f"scale_{_hash(held)}", "weights": int(codes.size), "inputs": codes.shape[1]}


def _hash(data: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def read_layers(program: bytes, layers: Mapping[str, Where]) -> dict[str, str]:
    """What each layer does (:func:`pmq.cost.latency.layer_key`), by how many bytes a file has under the hashes of its weight."""
    named = deserialize_pte_binary(program).named_data
    data = {} if named is None else {key: named.buffers[entry.buffer_index] for key, entry in named.pte_data.items()}
    found = {}
    for name, where in layers.items():
        held = data.get(where["data"], b"")
        bits = 8 * len(held) // where["weights"]
        if hashlib.sha256(held).hexdigest() != where["data"]:
            found[name] = "missing"
        elif bits == 32:
            found[name] = PLAIN
        else:
            scales, outputs = data.get(where["scales"], b""), where["weights"] // where["inputs"]
            blocks = len(scales) // (2 * outputs)  # of bfloat16; of a scale for each output, FP32
            group = "" if len(scales) == 4 * outputs else f"-group{where['inputs'] // max(1, blocks)}"
            found[name] = f"w{bits}{group} x 8-dynamic"
    return found
