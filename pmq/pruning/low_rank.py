"""Low-rank attention heads: rotates the channels of each head, without error, to principal axes in order of importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.progress import track
from pmq.models.equivalence import TOLERANCE, Equivalence
from pmq.pruning.importance import Scores
from pmq.pruning.losses import BATCH
from pmq.pruning.units import Unit

#: damping added to the diagonal of covariances, relative to their mean variance
DAMPING = 1e-4


@torch.no_grad()
def rotate_to_principal_axes(
    model: nn.Module, units: Sequence[Unit], images: Tensor, row_weights: Mapping[str, Tensor] | None = None
) -> Scores:
    """Rotate each attention of ``units`` to its principal axes, in place and without changing its output; score its channels.

    The product of q and k is the same in any basis of a head's channels, and so is the product of v and ``proj``. In the
    basis of the singular vectors of these products on the images, dropping the last channels has the least squared error of
    all projections to that rank. Softmax is invariant to a term that all keys share, and a bias can supply a term that all
    tokens share, so covariances of k and v are centred.

    Args:
        model: in evaluation mode.
        units: attentions of which any channels may be removed.
        images: ``(N, C, H, W)``.
        row_weights: weights ``(N, T)`` of the rows of the output of each ``proj``; uniform by default.

    Returns:
        By unit, the relative squared error of removing each channel ``(size,)``: the mean of that of the product of q and k
        and that of the product of v and ``proj``.

    Raises:
        PmqError: the output of the model changed.
    """
    equivalence = Equivalence(model, images)
    rotations = {unit.name: _HeadRotation(model, unit, (row_weights or {}).get(unit.last)) for unit in units}
    device = next(model.parameters()).device
    for number, batch in enumerate(track(images.split(BATCH), "statistics of heads")):
        handles = [handle for rotation in rotations.values() for handle in rotation.observe(number)]
        try:
            model(batch.to(device))
        finally:
            for handle in handles:
                handle.remove()
    scores = {name: rotation.apply() for name, rotation in rotations.items()}
    error = equivalence.error(model)
    if error > TOLERANCE:
        raise PmqError(
            f"rotating the channels of this model's heads changes its output (relative error {error:.2g}); prune structure "
            "'width' or 'heads' instead of 'rank'"
        )
    return scores


class _Covariance:
    """Weighted covariance of the rows of each head ``(heads, T, D)``, streamed."""

    def __init__(self) -> None:
        self._sums: tuple[Tensor, ...] = ()

    def update(self, x: Tensor, weight: Tensor | None = None) -> None:
        w = torch.ones(x.shape[1], device=x.device) if weight is None else weight
        sums = (w.sum().double(), torch.einsum("t,htd->hd", w, x).double(), torch.einsum("t,htd,hte->hde", w, x, x).double())
        self._sums = tuple(a + b for a, b in zip(self._sums, sums, strict=True)) if self._sums else sums

    def compute(self, centred: bool = False) -> Tensor:
        mass, mean, square = self._sums
        mean = mean / mass
        covariance = square / mass - (mean[:, :, None] * mean[:, None, :] if centred else 0)
        variance = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        identity = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
        return covariance + DAMPING * variance[:, None, None] * identity


class _HeadRotation:
    """Covariances of one attention's channels, and the rotation that follows from them."""

    def __init__(self, model: nn.Module, unit: Unit, row_weights: Tensor | None) -> None:
        self._layers: list[Any] = [model.get_submodule(name) for name, _ in unit.operands]
        self._rows = [rows for _, rows in unit.operands]
        self._last: Any = model.get_submodule(unit.last)
        self._heads = unit.heads
        self._row_weights = row_weights
        self._q, self._k, self._z = _Covariance(), _Covariance(), _Covariance()

    def observe(self, batch: int) -> list[Any]:
        """Register hooks that add a batch to the covariances, and return their handles."""

        def updating(covariance: _Covariance, rows: Tensor) -> Any:
            def add(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
                covariance.update(output.flatten(0, -2)[:, rows].transpose(0, 1))

            return add

        def add_mixed(layer: nn.Module, args: tuple[Tensor]) -> None:
            weight = None
            if self._row_weights is not None:
                weight = self._row_weights[batch * BATCH : (batch + 1) * BATCH].reshape(-1).to(args[0].device)
            self._z.update(args[0].flatten(0, -2).unflatten(1, (self._heads, -1)).transpose(0, 1), weight)

        q, k, _ = self._layers
        return [
            q.register_forward_hook(updating(self._q, self._rows[0])),
            k.register_forward_hook(updating(self._k, self._rows[1])),
            self._last.register_forward_pre_hook(add_mixed),
        ]

    def apply(self) -> Tensor:
        """Change the basis of each head and return the score of each channel ``(size,)``."""
        root_q, root_k, root_z = (
            _root(self._q.compute()),
            _root(self._k.compute(centred=True)),
            _root(self._z.compute(centred=True)),
        )
        u, strength, _ = torch.linalg.svd(root_q @ root_k)
        forward_q = torch.linalg.solve(root_q, u * strength[:, None, :].sqrt()).mT  # q' = F q, and k' = F^-T k
        forward_k = torch.linalg.inv(forward_q).mT
        proj = self._last.weight.double().unflatten(1, (self._heads, -1)).transpose(0, 1)  # (heads, O, D)
        _, gain, v = torch.linalg.svd(proj @ root_z, full_matrices=False)
        forward_v = gain[:, :, None].sqrt() * torch.linalg.solve(root_z, v, left=False)
        for layer, rows, forward in zip(self._layers, self._rows, (forward_q, forward_k, forward_v), strict=True):
            layer.weight.data[rows] = (forward @ layer.weight.double()[rows]).to(layer.weight)
            if layer.bias is not None:
                layer.bias.data[rows] = (forward @ layer.bias.double()[rows][..., None])[..., 0].to(layer.bias)
        back = proj @ torch.linalg.inv(forward_v)
        self._last.weight.data.copy_(back.transpose(0, 1).flatten(1))
        shares = [s.square() / s.square().sum() for s in (strength, gain)]
        return ((shares[0] + shares[1]) / 2).flatten().cpu()


def _root(covariance: Tensor) -> Tensor:
    """Return the symmetric square root ``(heads, D, D)``."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=1e-30).sqrt()[:, None, :]) @ vectors.mT
