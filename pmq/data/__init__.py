"""Image sources: folders, timm's datasets, shards, tables and the embedded images, with calibration and evaluation disjoint."""

from pmq.data.open import Data, open_data
from pmq.data.source import ImageSource

__all__ = ["Data", "ImageSource", "open_data"]
