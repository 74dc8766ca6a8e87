"""What the site takes from the code itself: the options of each command, and the fields of an allocation."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill ``{{ options NAME }}`` and ``{{ schema }}``."""
    markdown = re.sub(r"\{\{ options ([a-z]+) \}\}", lambda found: options(found[1]), markdown)
    return markdown.replace("{{ schema }}", schema()) if "{{ schema }}" in markdown else markdown


def options(name: str) -> str:
    """A table of a command's arguments and options, as ``--help`` has them."""
    import typer

    from pmq.cli import app

    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    lines = ["| option | | default |", "|---|---|---|"]
    for of in command.params:
        if of.name == "help":
            continue
        spelled = f"`{of.metavar or of.name.upper()}`" if of.param_type_name == "argument" else _spelled(of)
        plain = of.default if not isinstance(of.default, bool) else ("on" if of.default else None)
        default = "" if plain is None or callable(plain) else f"`{plain}`"
        lines.append(f"| {spelled} | {(of.help or '').replace('|', '/')} | {default} |")
    return "\n".join(lines)


def _spelled(option: Any) -> str:
    names = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    kind = option.display_type(None).strip("<>").partition(" ")[0]
    return names if option.is_flag else f"{names} {kind}"


def schema() -> str:
    """A table of an allocation's fields, and of what is inside them."""
    from pmq.core import Allocation

    found = Allocation.json_schema()
    tables = [_fields("", found)]
    tables += [_fields(name, of) for name, of in found["$defs"].items() if "properties" in of]
    return "\n\n".join(tables)


def _fields(title: str, of: dict[str, Any]) -> str:
    about = of.get("description", "").partition("\n")[0].replace("``", "`")
    lines = [f"### {title}", "", about, ""] if title else []
    lines += ["| field | type | required |", "|---|---|---|"]
    for name, field in of["properties"].items():
        lines.append(f"| `{name}` | {_type(field)} | {'yes' if name in of.get('required', ()) else ''} |")
    return "\n".join(lines)


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    if field.get("type") == "array":
        return f"array of {_type(field.get('items', {}))}"
    return str(field.get("type", "any"))
