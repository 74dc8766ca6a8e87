"""Translation of the Python option names in messages of the library to the flags of the command line."""

from __future__ import annotations

import re

#: flags of the options whose flag is not the option's name with dashes
_FLAGS = {
    "global_pool": "--gp",
    "n_calibration": "--calib-images",
    "n_held_out": "--held-out",
    "n_passes": "--rounds",
    "n_probe": "--probe-images",
    "n_random": "--count",
    "n_rounds": "--rounds",
    "n_truth": "--truth-images",
}
_OPTION = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`\s]+))?`")


def as_flags(text: str) -> str:
    """Replace each option in backticks by its flag; commands in backticks, which contain spaces, are unchanged.

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
