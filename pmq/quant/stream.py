"""Stream of the activations of many images, which pass through a model stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from torch import Tensor, nn

from pmq.graph import Layer
from pmq.quant.calibration import BATCH
from pmq.quant.simulator import Simulator
from pmq.quant.spill import Spill
from pmq.quant.token_scores import Attention, Ranker


class Heard(Exception):
    """Raised by a tap or hook that needs nothing of what follows in the stage."""


class Stream:
    """Context manager of batches that are stored on disk between stages, each with the attention that ranks its tokens.

    Attributes:
        spill: batches of inputs of the next stage.
        batch: index of the batch that is being computed.
    """

    def __init__(self, simulator: Simulator, images: Tensor, ranker: Ranker | None = None) -> None:
        self.spill = Spill()
        self._simulator, self._images, self._ranker = simulator, images, ranker
        self._attention: list[Attention | None] = []
        self.batch = 0

    def __enter__(self) -> Stream:
        self.spill.__enter__()
        for batch in self._images.split(BATCH):
            self.spill.append(batch)
            self._attention.append(None)
        return self

    def __exit__(self, *exception: object) -> None:
        self.spill.__exit__(*exception)

    def run(self, stage: int) -> Iterator[Tensor]:
        """Yield the output of a stage for each batch; the stream does not advance."""
        return (self._run(stage, batch) for batch in range(len(self.spill)))

    def _run(self, stage: int, batch: int) -> Tensor:
        self.batch = batch
        if self._ranker is not None:
            self._ranker.attention = self._attention[batch]
        x = self.spill[batch].to(next(self._simulator.model.parameters()).device)
        return self._simulator.run(x, stage, stage + 1)

    def listen(self, stage: int) -> None:
        """Run a stage for its taps and hooks only; each batch ends where one of them raises :class:`Heard`."""
        for batch in range(len(self.spill)):
            with suppress(Heard):
                self._run(stage, batch)

    def listen_before(self, layer: Layer, function: Callable[[Tensor], None], stage: int) -> None:
        """Run a stage up to a layer, and call ``function`` with the layer's input."""

        def hook(module: nn.Module, args: tuple[Tensor]) -> None:
            function(args[0])
            raise Heard

        with layer.register_forward_pre_hook(hook):
            self.listen(stage)

    def advance(self, stage: int) -> None:
        """Run a stage and store its outputs as the inputs of the next one."""
        for y in self.run(stage):
            self.spill[self.batch] = y
            if self._ranker is not None:
                self._attention[self.batch] = self._ranker.attention
