"""Images: folders, timm's datasets, the embedded ones; calibration and evaluation kept apart."""

from pmq.data.open import Data, open_data
from pmq.data.source import ImageSource

__all__ = ["Data", "ImageSource", "open_data"]
