"""Correction of a weight for the error of its quantized input, in closed form (ERQ, 2407.06794)."""

from __future__ import annotations

import torch
from torch import Tensor


def ridge_corrected(weight: Tensor, joint: Tensor, strength: float) -> Tensor:
    """Return the weight whose product with the quantized input is closest to that of ``weight`` with the exact input.

    It minimizes ``E |W x - V q|^2 + strength * m * |V - W|^2`` over ``V``, where ``q`` is the quantized ``x`` and ``m`` its
    mean square. ``joint`` is the second moment ``(2 I, 2 I)`` of ``q`` and ``x`` concatenated; ``weight`` is ``(O, I, ...)``.

    Least squares also shrinks the product towards its mean where the quantized input contains little information, so
    activations shrink from layer to layer, and with few bits the network can become worse.
    """
    inputs = len(joint) // 2
    joint, flat = joint.double(), weight.flatten(1).double()
    quantized, cross = joint[:inputs, :inputs], joint[inputs:, :inputs]
    damping = strength * quantized.diagonal().mean().clamp(min=1e-12) * torch.eye(inputs, device=joint.device)
    solved = torch.linalg.solve(quantized + damping, flat @ (cross + damping), left=False)
    return solved.to(weight.dtype).reshape(weight.shape)
