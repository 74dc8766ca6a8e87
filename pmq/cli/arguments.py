"""Command-line arguments as they are typed, checked and expanded before Typer parses them."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

from pmq.core import PmqError

#: flags that take several values, as in timm's scripts, and the pattern of one value
_MULTI_VALUE = {
    "--model-kwargs": re.compile(r"[^-=][^=]*=.*"),
    "--keep": re.compile(r"[^-=][^=]*=\w+"),
    "--mean": re.compile(r"-?[\d.]+(e-?\d+)?"),
    "--std": re.compile(r"-?[\d.]+(e-?\d+)?"),
}


def _repeated(args: list[str]) -> list[str]:
    """Repeat a flag that takes several values before each of its values.

    >>> _repeated(["vit", "--model-kwargs", "a=1", "b=2", "--json"])
    ['vit', '--model-kwargs', 'a=1', '--model-kwargs', 'b=2', '--json']
    >>> _repeated(["--mean", "0.5", "0.4", "vit"])
    ['--mean', '0.5', '--mean', '0.4', 'vit']
    """
    expanded: list[str] = []
    for argument in args:
        flag = expanded[-2] if len(expanded) > 1 and expanded[-1] not in _MULTI_VALUE else ""
        if flag in _MULTI_VALUE and _MULTI_VALUE[flag].fullmatch(argument):
            expanded.append(flag)
        expanded.append(argument)
    return expanded


class Command(TyperCommand):
    """Command that rejects empty arguments: an empty path, as from an unset variable, would mean the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments after checking that none is empty."""
        args = _repeated(args)
        values = self.make_parser(ctx).parse_args(list(args))[0]
        for parameter in self.get_params(ctx):
            value = values.get(parameter.name)
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.opts[0].upper()
                raise PmqError(f"{name} is empty; give it a value or leave it out")
        return super().parse_args(ctx, args)
