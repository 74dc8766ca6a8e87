"""Images of a source in shards of whole batches, which are evaluated, and their results kept, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from pmq.data.source import Batch, ImageSource

#: least number of images in a shard of many images, and of few, which workers could not share otherwise
SHARD_IMAGES, FEW_IMAGES = 256, 64
#: number of shards of few images
FEW_SHARDS = 16


@dataclass(frozen=True)
class ShardBatch:
    """A batch of a shard.

    Attributes:
        shard: number of the shard.
        images: readable images ``(B, C, H, W)``, or None without any.
        labels: their labels ``(B,)``.
        unreadable: names of the other images.
    """

    shard: int
    images: Tensor | None
    labels: Tensor
    unreadable: list[str]


@dataclass(frozen=True)
class ImageShards:
    """Images of a source, cut into batches and these into shards, at places that depend on nothing else.

    Floating-point results depend on which images are in a batch, so that all who evaluate shards must cut batches alike. As an
    iterable it yields all batches ``(images, labels)``.

    Attributes:
        source: where the images are read.
        indices: numbers of the images.
        batch_size: number of images per batch.
    """

    source: ImageSource
    indices: Sequence[int]
    batch_size: int

    @property
    def shard_images(self) -> int:
        """Number of images in each shard but the last: whole batches."""
        least = min(SHARD_IMAGES, max(FEW_IMAGES, len(self.indices) // FEW_SHARDS))
        return -(-least // self.batch_size) * self.batch_size

    def __len__(self) -> int:
        """Return the number of shards."""
        return -(-len(self.indices) // self.shard_images)

    def indices_of(self, shard: int) -> Sequence[int]:
        """Return the numbers of the images of a shard."""
        return self.indices[shard * self.shard_images : (shard + 1) * self.shard_images]

    def _batches_of(self, shard: int) -> list[Sequence[int]]:
        indices = self.indices_of(shard)
        return [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]

    def read(self, shards: Sequence[int]) -> Iterator[ShardBatch]:
        """Read some shards one after the other, ahead of whoever takes the batches if the source has processes for that.

        Raises:
            PmqError: more than 1 % of all images are unreadable ones in these shards.
        """
        batches = [(shard, self._batches_of(shard)) for shard in shards]
        numbers = [shard for shard, indices in batches for _ in indices]
        unreadable: list[str] = []
        read = self.source.read([one for _, indices in batches for one in indices])
        for shard, (images, labels, failed) in zip(numbers, read, strict=True):
            unreadable += failed
            self.source.tolerate(unreadable, len(self.indices))
            yield ShardBatch(shard, images, labels, failed)

    def __iter__(self) -> Iterator[Batch]:
        return self.source.batches(self.batch_size, self.indices)
