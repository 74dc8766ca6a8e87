"""Core ML: the converted model as an ``.mlpackage`` that takes pictures, with weights of the bits of an allocation."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from pmq.core.errors import PmqError, one_line
from pmq.exports.base import Format, register
from pmq.exports.fit import Fitted, Holds
from pmq.runtimes.intake import Intake

if TYPE_CHECKING:
    from pmq.exports.grid import Grid
    from pmq.exports.tensor import ExportModel, QuantizedTensor

#: bit-widths that are stored as integers with scales; the others are indices into a table of integers
INTEGERS = (4, 8)


@register
class CoreML(Format):
    """Model file for Core ML, which computes activations in 16-bit floats.

    Files of 4- and 8-bit weights are for iOS 18 and later. Others are for iOS 26: before, Core ML scales a table instead of what
    is looked up in it, and the table of each output would be about as large as the weight.
    """

    name = "coreml"
    tool = "Core ML"
    suffix = ".mlpackage"
    is_folder = True
    packages = ("coremltools",)
    extra = "coreml"

    def require(self) -> None:
        """Import coremltools without what it prints of packages that are not used here."""
        with _quiet():
            super().require()

    def holds(self, model: ExportModel, tensor: QuantizedTensor) -> Holds | str:
        """Return weights; Core ML has no activations below 16 bits but those of 8-bit layers that it calibrates itself."""
        if not tensor.is_weight:
            return "activations are 16-bit floats"
        layer = model.layers[tensor.component.module]
        if layer.convolution is not None and layer.convolution.transposed:
            return "scales of a transposed convolution are for its inputs"
        return Holds((2, 3, 4, 6, 8), ("tensor", "channel"), asymmetric=False, tables=True)

    def write(self, model: ExportModel, fitted: Fitted, path: Path) -> list[Path]:
        """Convert the model, replace its weights, and write it."""
        import coremltools

        tables = {name: _table(model, fitted, name) for name in fitted.grids}
        target = coremltools.target.iOS18 if all(table is None for table in tables.values()) else coremltools.target.iOS26
        with _quiet():
            try:
                program = _converted(model, target)
                _compress(program, model, fitted, tables)
                built = coremltools.convert(program, minimum_deployment_target=target, skip_model_load=True)
            except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
                raise PmqError(f"coremltools cannot convert this model: {one_line(error)}") from None
        built.short_description = f"{model.info.name}, quantized by pmq"
        _save(built, path)
        return [path]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings and progress bars of coremltools; its errors are exceptions."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _converted(model: ExportModel, target: Any) -> Any:
    """Return the model as a program of coremltools' intermediate language, which takes a picture."""
    import coremltools
    import torch

    size = model.info.data_config["input_size"]
    intake = Intake.of("uint8", "nchw", model.info.data_config)
    pixels = torch.zeros(1, *size)
    traced = torch.jit.trace(intake.entered(model.model), pixels, check_trace=False)
    layout = coremltools.colorlayout.GRAYSCALE if size[0] == 1 else coremltools.colorlayout.RGB
    image = coremltools.ImageType("image", shape=tuple(pixels.shape), color_layout=layout)
    return coremltools.convert(traced, inputs=[image], convert_to="milinternal", minimum_deployment_target=target)


def _table(model: ExportModel, fitted: Fitted, name: str) -> Any:
    """Return the integers that the codes of a weight are indices of; None if it is stored as integers."""
    bits, levels = fitted.grids[name].bits, model.layers[model.tensors[name].component.module].levels
    if levels is not None and name not in fitted.widened:
        return levels
    return None if bits in INTEGERS else np.arange(2**bits) - 2 ** (bits - 1)


def _compress(program: Any, model: ExportModel, fitted: Fitted, tables: Mapping[str, Any]) -> None:
    """Replace constants by the integers and scales of the weights that they are."""
    function = program.functions["main"]
    constants = {operation.name: operation for operation in function.find_ops(op_type="const")}
    for name, grid in fitted.grids.items():
        codes = model.layers[model.tensors[name].component.module].codes
        assert codes is not None
        constant = constants.get(f"{name}_to_fp16", constants.get(name))
        if constant is None:
            raise ValueError(f"the converted model has no constant for {name!r}")
        _replace(function, constant, name, codes.reshape(constant.val.val.shape), grid, tables[name])


def _replace(function: Any, constant: Any, name: str, codes: Any, grid: Grid, levels: Any) -> None:
    from coremltools.converters.mil.mil import Builder, types
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    shape = codes.shape
    kind = constant.val.val.dtype
    scale = grid.scale.astype(kind).reshape(-1, *(1 for _ in shape[1:]))
    passes = ScopeSource.COREMLTOOLS_GRAPH_PASS  # of which an operation has one at most
    scopes = [ScopeInfo(source=source, data=data) for source, data in constant.scopes.items() if source != passes]
    with function, Builder.scope(*scopes):
        if levels is None:
            data = codes.astype(types.nptype_from_builtin(types.string_to_builtin(f"int{grid.bits}")))
        else:
            bits = len(levels).bit_length() - 1
            index = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
            table = levels.astype(kind).reshape(*(1 for _ in shape), -1, 1)
            data = Builder.constexpr_lut_to_dense(
                indices=np.searchsorted(levels, codes).astype(index), lut=table, before_op=constant, name=f"{name}_integers"
            )
        value = Builder.constexpr_blockwise_shift_scale(data=data, scale=scale, before_op=constant, name=f"{name}_scaled")
        constant.enclosing_block.replace_uses_of_var_after_op(
            anchor_op=constant, old_var=constant.outputs[0], new_var=value, force_replace=True
        )
        constant.enclosing_block.remove_ops([constant])


def _save(built: Any, path: Path) -> None:
    """Write the package, which is a folder, under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".pmq-", dir=path.parent) as folder:
        package = Path(folder) / path.name
        built.save(str(package))
        package.replace(path)
