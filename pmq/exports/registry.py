"""Registry of all formats; a new format has to be imported here."""

from __future__ import annotations

from pmq.exports import aimet as _aimet  # noqa: F401 (importing registers them)
from pmq.exports import coreml as _coreml  # noqa: F401
from pmq.exports import modelopt as _modelopt  # noqa: F401
from pmq.exports import nncf as _nncf  # noqa: F401
from pmq.exports import qnn as _qnn  # noqa: F401
from pmq.exports import torchao as _torchao  # noqa: F401
from pmq.exports.base import FORMATS, Format

__all__ = ["FORMATS", "Format"]
