"""Formats of other tools, one per module. Only Core ML's own package is needed to write its format."""

from __future__ import annotations

from pmq.exports.registry import FORMATS, Format

__all__ = ["FORMATS", "Format"]
