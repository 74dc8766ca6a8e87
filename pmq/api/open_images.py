"""Image folders and data sets, opened as a model wants them."""

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
    data: str | Path,
    model: nn.Module | str | None,
    *,
    split: str | None = None,
    data_config: Mapping[str, Any] | None = None,
    class_map: str | Path | None = None,
    class_order: str = ORDERS[0],
    workers: int = 0,
) -> Data:
    """Open images as the command line does: prepared for a model, their classes told by its names, a map, or their order.

    Args:
        data: a folder, a table, an archive or a dataset, see :func:`pmq.data.open_data`.
        model: whose images they are to be: a module, or a name.
        split: folder or split to evaluate on.
        data_config: how images are prepared, where the model does not say, or otherwise.
        class_map: see :func:`pmq.data.classes.read_class_map`.
        class_order: of folders that no name tells of, ``imagefolder`` or ``natural``.
        workers: processes that read ahead.

    Returns:
        Two sources, ``calibration`` and ``evaluation``, which may be one; ``calibration_images`` draws from the former,
        ``evaluation.batches(32)`` gives ``(images, labels)``.

    Raises:
        PmqError: there is nothing there, or nobody says how images are prepared.
    """
    module = create_model(model) if model is None or isinstance(model, str) else model
    info = model_info(module)
    config = prepared_config(info.data_config, data_config or {}, info.data_config["input_size"][0])
    rule = ClassRule(tuple(class_names(module)), None if class_map is None else Path(class_map), class_order)
    return open_data(str(data), info.model_copy(update={"data_config": config}), split, None, workers, rule)
