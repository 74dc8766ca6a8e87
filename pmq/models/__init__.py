"""Models through timm, their components, and the stages a forward pass can restart at."""

from pmq.models.components import take_inventory
from pmq.models.create import create_model
from pmq.models.describe import class_names, model_info, model_label
from pmq.models.embedded import EMBEDDED_NAME
from pmq.models.rows import RowUnit, leave_out, row_units
from pmq.models.stages import Stages, split_stages

__all__ = [
    "EMBEDDED_NAME",
    "RowUnit",
    "Stages",
    "class_names",
    "create_model",
    "leave_out",
    "model_info",
    "model_label",
    "row_units",
    "split_stages",
    "take_inventory",
]
