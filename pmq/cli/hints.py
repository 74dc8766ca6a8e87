"""Spell options of the Python functions, which messages of the library name, as the flags that a command has for them."""

from __future__ import annotations

import re

#: options whose flag is not their name with dashes
_FLAGS = {"n_calibration": "--calib-images", "n_held_out": "--held-out", "global_pool": "--gp"}
_OPTION = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`\s]+))?`")


def as_flags(text: str) -> str:
    """Turn each option in backticks into a flag; a command in backticks, which has spaces, stays as it is.

    >>> as_flags("lower `n_calibration`, or pass `out=other` and `recalibrate`; run `pmq patches` again")
    'lower --calib-images, or pass --out other and --recalibrate; run `pmq patches` again'
    """
    return _OPTION.sub(_flag, text)


def _flag(option: re.Match[str]) -> str:
    name, value = option.groups()
    flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    if value is None or value == "True":
        return flag
    return f"--no-{flag[2:]}" if value == "False" else f"{flag} {value}"
