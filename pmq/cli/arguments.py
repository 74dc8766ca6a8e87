"""Arguments as they are given, before anything is made of them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from pmq.core import PmqError


class Command(TyperCommand):
    """A command that refuses empty arguments: of an empty path, as an unset variable gives, the current folder would be made."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after a look at what is given."""
        given = self.make_parser(ctx).parse_args(list(args))[0]
        for of in self.get_params(ctx):
            value = given.get(of.name)
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                name = of.opts[0] if of.opts[0].startswith("-") else of.opts[0].upper()
                raise PmqError(f"{name} is empty; give it a value or leave it out")
        return super().parse_args(ctx, args)
