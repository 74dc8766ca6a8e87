"""Arguments as they are given, before anything is made of them."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

from pmq.core import PmqError

#: flags that take several values, as in timm's scripts, and what these look like
_SEVERAL = {
    "--model-kwargs": re.compile(r"[^-=][^=]*=.*"),
    "--keep": re.compile(r"[^-=][^=]*=\w+"),
    "--mean": re.compile(r"-?[\d.]+(e-?\d+)?"),
    "--std": re.compile(r"-?[\d.]+(e-?\d+)?"),
}


def _repeated(args: list[str]) -> list[str]:
    """Give a flag that takes several values again before each of them.

    >>> _repeated(["vit", "--model-kwargs", "a=1", "b=2", "--json"])
    ['vit', '--model-kwargs', 'a=1', '--model-kwargs', 'b=2', '--json']
    >>> _repeated(["--mean", "0.5", "0.4", "vit"])
    ['--mean', '0.5', '--mean', '0.4', 'vit']
    """
    found: list[str] = []
    for argument in args:
        flag = found[-2] if len(found) > 1 and found[-1] not in _SEVERAL else ""
        if flag in _SEVERAL and _SEVERAL[flag].fullmatch(argument):
            found.append(flag)
        found.append(argument)
    return found


class Command(TyperCommand):
    """A command that refuses empty arguments: of an empty path, as an unset variable gives, the current folder would be made."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after a look at what is given."""
        args = _repeated(args)
        given = self.make_parser(ctx).parse_args(list(args))[0]
        for of in self.get_params(ctx):
            value = given.get(of.name)
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                name = of.opts[0] if of.opts[0].startswith("-") else of.opts[0].upper()
                raise PmqError(f"{name} is empty; give it a value or leave it out")
        return super().parse_args(ctx, args)
