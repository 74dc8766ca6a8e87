"""Models: creation, names and descriptions, preparation of users' modules, and the meaning of outputs."""

from pmq.models.create import create_model
from pmq.models.describe import class_names, model_info, model_label
from pmq.models.embedded import EMBEDDED_NAME

__all__ = [
    "EMBEDDED_NAME",
    "class_names",
    "create_model",
    "model_info",
    "model_label",
]
