"""The worker of a Ray cluster: a process that holds the state and calls functions on it. It needs no Ray itself."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from pmq.core.allocation import pmq_version
from pmq.core.errors import PmqError
from pmq.core.memory import keep_freed_memory
from pmq.models.float_products import multiply_by_onednn
from pmq.models.torchvision_ops import ensure_torchvision


def pack(value: Any, cloudpickle: Any) -> bytes:
    """Serialize a value for the object store; tensors that share memory still share it when they are restored.

    ``cloudpickle`` is Ray's module of this name, which also takes functions that are defined in other functions.
    """

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, OpOverload | OpOverloadPacket):
                return _operator, (str(value),)
            return super().reducer_override(value)

    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_module=SimpleNamespace(Pickler=Pickler, __name__="pickle"))
    return buffer.getvalue()


def _operator(name: str) -> Any:
    """Return an operator of torch by its name, such as ``aten.linear.default``; the operators themselves cannot be serialized."""
    return attrgetter(name.replace("::", "."))(torch.ops)


def unpack(data: bytes, device: str) -> Any:
    """Restore a packed value, with all tensors on a type of device."""
    return torch.load(io.BytesIO(data), map_location=device, weights_only=False)


def installed_versions() -> dict[str, str]:
    """Return the versions on which results depend."""
    return {"pmq": pmq_version(), "torch": torch.__version__}


class Worker:
    """Holds a state and calls functions on it; one at a time."""

    _device = "cpu"
    _state: Any = None

    def begin(self, versions: dict[str, str], threads: int, device: str, onednn: bool) -> int:
        """Prepare the process, and return its number.

        Args:
            versions: versions of pmq and torch of the driver, from which results must not differ.
            threads: number of threads per operation: that of the driver, because sums depend on it in their last digits.
            device: type of device on which the driver computes.
            onednn: whether oneDNN computes the driver's FP32 products, as another library sums in another order.

        Raises:
            PmqError: the versions differ.
        """
        here = installed_versions()
        if here != versions:
            raise PmqError(f"a node of the Ray cluster has {here}, this process {versions}; install the same versions everywhere")
        os.environ["PMQ_PROGRESS"] = "0"
        ensure_torchvision()  # before a state is restored that holds modules of timm, which imports torchvision
        keep_freed_memory()
        if onednn:
            multiply_by_onednn()
        torch.set_num_threads(threads)
        self._device = device
        return os.getpid()

    def hold(self, data: bytes) -> None:
        """Restore the state."""
        self._state = unpack(data, self._device)

    def share(self, data: bytes) -> None:
        """Apply a packed pair ``(function, value)`` to the state."""
        function, value = unpack(data, self._device)
        function(self._state, value)

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Return ``function(state, *arguments)``."""
        with torch.inference_mode(False):
            return function(self._state, *arguments)
