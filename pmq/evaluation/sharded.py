"""Evaluation of models on a whole data set, shard by shard; each finished shard survives a kill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pmq.core.errors import PmqError
from pmq.core.journal import Journal
from pmq.core.progress import message, track
from pmq.data.image_shards import ImageShards, ShardBatch
from pmq.evaluation.comparison import Comparison, ImageSums, Metrics, ModelSums, metrics_of
from pmq.evaluation.executor import Executor, Failed, Unit
from pmq.evaluation.whole_set import Metric


@dataclass(frozen=True)
class ShardState:
    """What shards are evaluated with, by every worker: the models, and where the images are."""

    comparison: Comparison
    images: ImageShards

    @property
    def device_type(self) -> str:
        """Type of the device on which the models are."""
        return self.comparison.device_type


def evaluate_shards(
    comparison: Comparison, images: ImageShards, executor: Executor, journal: Journal | None, metric: Metric | None = None
) -> list[Metrics]:
    """Evaluate all models of a comparison on all images, which are read once; memory does not grow with their number.

    Args:
        comparison: the models; it collects outputs where ``metric`` is given.
        images: the images.
        executor: evaluates shards.
        journal: stores the sums of each shard and supplies known ones; it is ignored where outputs must be collected.
        metric: custom metric, see :func:`pmq.evaluation.evaluate_models`.

    Returns:
        The metrics of each model.

    Raises:
        PmqError: more than 1 % of the images cannot be read, or a shard failed on several workers.
    """
    journal = None if comparison.empty().collected.needed else journal
    sums = _known_sums(comparison, images, journal)
    missing = [shard for shard in range(len(images)) if shard not in sums]
    if sums:
        message(f"{len(sums)} of {len(images)} shards were evaluated before; the others follow")
    for shard, shard_sums in _missing_sums(comparison, images, missing, executor):
        sums[shard] = shard_sums
        if journal is not None:
            models = [model.to_json() for model in shard_sums.models]
            journal.record(f"shard/{shard}", {"models": models, "unreadable": shard_sums.unreadable})
    total = comparison.empty()
    for shard in range(len(images)):
        total.models = [a + b for a, b in zip(total.models, sums[shard].models, strict=True)]
        total.collected.extend(sums[shard].collected)
        total.unreadable += sums[shard].unreadable
    images.source.unreadable = total.unreadable
    images.source.tolerate(total.unreadable, len(images.indices))
    return metrics_of(total, comparison.amp, metric)


def evaluate_shard(state: ShardState, shard: int) -> ImageSums:
    """Evaluate one shard."""
    ((_, sums),) = _sums_here(state.comparison, state.images.read([shard]))
    return sums


def _known_sums(comparison: Comparison, images: ImageShards, journal: Journal | None) -> dict[int, ImageSums]:
    known = {}
    for shard in range(len(images)):
        entry = None if journal is None else journal.recall(f"shard/{shard}")
        if entry is not None:
            known[shard] = comparison.empty()
            known[shard].models = [ModelSums.from_json(model, comparison.task) for model in entry["models"]]
            known[shard].unreadable = list(entry["unreadable"])
    return known


def _missing_sums(
    comparison: Comparison, images: ImageShards, missing: Sequence[int], executor: Executor
) -> Iterator[tuple[int, ImageSums]]:
    """Evaluate shards here, reading ahead from one to the next, or on the executor's workers."""
    total = sum(len(images.indices_of(shard)) for shard in missing)
    if not executor.n_workers:
        batches = track(images.read(missing), "evaluating", total, "images", lambda b: len(b.labels) + len(b.unreadable))
        yield from _sums_here(comparison, batches)
        return
    if not missing:
        return
    executor.hold(ShardState(comparison, images))
    units = (Unit(shard, f"shard {shard} of the images", evaluate_shard, (shard,)) for shard in missing)
    done = track(executor.run(units), "evaluating", total, "images", lambda d: len(images.indices_of(d[0].arguments[0])))
    for unit, result in done:
        if isinstance(result, Failed):
            raise PmqError(f"{unit.name} could not be evaluated: {result.reason}; the same command continues with the others")
        for name in result.unreadable:
            message(f"unreadable, skipped: {name}")
        yield unit.arguments[0], result


def _sums_here(comparison: Comparison, batches: Iterator[ShardBatch]) -> Iterator[tuple[int, ImageSums]]:
    """Yield the number and the sums of each shard whose batches follow one another."""
    shard, sums = -1, comparison.empty()
    for batch in batches:
        if batch.shard != shard:
            if shard >= 0:
                yield shard, sums
            shard, sums = batch.shard, comparison.empty()
        sums.unreadable += batch.unreadable
        if batch.images is not None:
            comparison.add(sums, batch.images, batch.labels, check_amp=shard == 0)
    if shard >= 0:
        yield shard, sums
