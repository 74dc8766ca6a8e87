"""Arguments as they are given, before anything is made of them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from pmq.core import PmqError


def _repeated(args: list[str], flag: str) -> list[str]:
    """Give a flag again before each further ``KEY=VALUE`` behind it, as timm's scripts take several.

    >>> _repeated(["vit", "--model-kwargs", "a=1", "b=2", "--json"], "--model-kwargs")
    ['vit', '--model-kwargs', 'a=1', '--model-kwargs', 'b=2', '--json']
    """
    found: list[str] = []
    for position, argument in enumerate(args):
        further = len(found) > 1 and found[-2] == flag and position > 1 and args[position - 1] != flag
        if further and "=" in argument and not argument.startswith("-"):
            found.append(flag)
        found.append(argument)
    return found


class Command(TyperCommand):
    """A command that refuses empty arguments: of an empty path, as an unset variable gives, the current folder would be made."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after a look at what is given."""
        args = _repeated(args, "--model-kwargs")
        given = self.make_parser(ctx).parse_args(list(args))[0]
        for of in self.get_params(ctx):
            value = given.get(of.name)
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                name = of.opts[0] if of.opts[0].startswith("-") else of.opts[0].upper()
                raise PmqError(f"{name} is empty; give it a value or leave it out")
        return super().parse_args(ctx, args)
