"""The verb ``open_images``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pmq.data import Data, open_data
from pmq.data.classes import ORDERS, ClassRule
from pmq.models import class_names, create_model, model_info
from pmq.models.prepared import prepared_config


def open_images(
    data: str | Path | None,
    model: nn.Module | str | None,
    *,
    split: str | None = None,
    data_config: Mapping[str, Any] | None = None,
    class_map: str | Path | None = None,
    class_order: str = ORDERS[0],
    workers: int = 0,
) -> Data:
    """Open images as the command line does: preprocessed for a model, with labels in the order of its outputs.

    Args:
        data: a folder, a table, an archive or a dataset, see :func:`pmq.data.open_data`; ``None`` for the embedded images.
        model: the model that the images are for: a module, or a name.
        split: folder or split to evaluate on.
        data_config: preprocessing, where the model does not define it or it differs.
        class_map: file that maps classes to outputs, see :func:`pmq.data.classes.read_class_map`.
        class_order: order of folders whose names do not determine their class, ``imagefolder`` or ``natural``.
        workers: processes that read images ahead.

    Returns:
        Two sources, ``calibration`` and ``evaluation``, which may be the same; ``calibration_images`` draws from the first,
        ``evaluation.batches(32)`` yields ``(images, labels)``.

    Raises:
        PmqError: there are no images, or their preprocessing is unknown.
    """
    module = create_model(model) if model is None or isinstance(model, str) else model
    info = model_info(module)
    config = prepared_config(info.data_config, data_config or {}, info.data_config["input_size"][0])
    rule = ClassRule(tuple(class_names(module)), None if class_map is None else Path(class_map), class_order)
    return open_data(
        None if data is None else str(data), info.model_copy(update={"data_config": config}), split, None, workers, rule
    )
