"""Models: where they come from, what they are called, and what their outputs mean."""

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
