"""Attention heads of lower rank: channels of each head are mixed, exactly, so that the first of them hold the most."""

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

#: added to covariances, relative to their mean variance
DAMPING = 1e-4


@torch.no_grad()
def rotate_to_principal_axes(
    model: nn.Module, units: Sequence[Unit], images: Tensor, row_weights: Mapping[str, Tensor] | None = None
) -> Scores:
    """Rewrite each attention of ``units`` in place, leaving what it computes as it is; score its channels.

    The product of q and k is the same in any basis of a head's channels, and so is what ``proj`` makes of v. In the basis
    of the singular vectors of what these products are on the images, the channels that come last can be left out at the
    least squared error that leaving out so many can have at all. What is the same for all keys, softmax does not see; what
    is the same for all tokens, a bias can give: neither counts.

    Args:
        model: in evaluation mode.
        units: attentions, of which any channels may be removed.
        images: ``(N, C, H, W)``.
        row_weights: of each ``proj``, how much each row of its output matters ``(N, T)``; all the same without.

    Returns:
        The squared error of leaving out each channel ``(size,)``: the mean of that of q with k and that of v with ``proj``,
        each as share of its whole.

    Raises:
        PmqError: the model computes something else afterwards.
    """
    equivalence = Equivalence(model, images)
    seen = {unit.name: _Seen(model, unit, (row_weights or {}).get(unit.last)) for unit in units}
    device = next(model.parameters()).device
    for number, batch in enumerate(track(images.split(BATCH), "looking at heads")):
        handles = [handle for one in seen.values() for handle in one.listen(number)]
        try:
            model(batch.to(device))
        finally:
            for handle in handles:
                handle.remove()
    scores = {name: one.rewrite() for name, one in seen.items()}
    error = equivalence.error(model)
    if error > TOLERANCE:
        raise PmqError(
            f"mixing the channels of this model's heads changes what it computes (relative error {error:.2g}); prune their "
            "width or whole heads instead"
        )
    return scores


class _Covariance:
    """Of rows by head ``(heads, T, D)``, weighed, streamed."""

    def __init__(self) -> None:
        self._sums: tuple[Tensor, ...] = ()

    def update(self, x: Tensor, weight: Tensor | None = None) -> None:
        w = torch.ones(x.shape[1], device=x.device) if weight is None else weight
        sums = (w.sum().double(), torch.einsum("t,htd->hd", w, x).double(), torch.einsum("t,htd,hte->hde", w, x, x).double())
        self._sums = tuple(a + b for a, b in zip(self._sums, sums, strict=True)) if self._sums else sums

    def compute(self, centred: bool = False) -> Tensor:
        mass, mean, square = self._sums
        mean = mean / mass
        found = square / mass - (mean[:, :, None] * mean[:, None, :] if centred else 0)
        variance = found.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        return found + DAMPING * variance[:, None, None] * torch.eye(found.shape[1], dtype=found.dtype, device=found.device)


class _Seen:
    """Covariances of one attention, and what follows from them."""

    def __init__(self, model: nn.Module, unit: Unit, row_weights: Tensor | None) -> None:
        self._layers: list[Any] = [model.get_submodule(name) for name, _ in unit.operands]
        self._rows = [rows for _, rows in unit.operands]
        self._last: Any = model.get_submodule(unit.last)
        self._heads = unit.heads
        self._row_weights = row_weights
        self._q, self._k, self._z = _Covariance(), _Covariance(), _Covariance()

    def listen(self, batch: int) -> list[Any]:
        def made(covariance: _Covariance, rows: Tensor) -> Any:
            def add(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
                covariance.update(output.flatten(0, -2)[:, rows].transpose(0, 1))

            return add

        def mixed(layer: nn.Module, args: tuple[Tensor]) -> None:
            weight = None
            if self._row_weights is not None:
                weight = self._row_weights[batch * BATCH : (batch + 1) * BATCH].reshape(-1).to(args[0].device)
            self._z.update(args[0].flatten(0, -2).unflatten(1, (self._heads, -1)).transpose(0, 1), weight)

        q, k, _ = self._layers
        return [
            q.register_forward_hook(made(self._q, self._rows[0])),
            k.register_forward_hook(made(self._k, self._rows[1])),
            self._last.register_forward_pre_hook(mixed),
        ]

    def rewrite(self) -> Tensor:
        """Change the basis of each head; give the score of each channel."""
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
    """Symmetric square root ``(heads, D, D)``."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=1e-30).sqrt()[:, None, :]) @ vectors.mT
