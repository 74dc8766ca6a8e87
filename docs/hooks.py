"""MkDocs hooks that generate pages from the code: the options of each command and the fields of an allocation."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill ``{{ options NAME }}`` and ``{{ schema }}``."""
    markdown = re.sub(r"\{\{ options ([a-z]+) \}\}", lambda match: options(match[1]), markdown)
    return markdown.replace("{{ schema }}", schema()) if "{{ schema }}" in markdown else markdown


def options(name: str) -> str:
    """Return a table of a command's arguments and options, as ``--help`` lists them."""
    import typer

    from pmq.cli import app

    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    lines = ["| option | | default |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.name == "help":
            continue
        is_argument = parameter.param_type_name == "argument"
        spelling = f"`{parameter.metavar or parameter.name.upper()}`" if is_argument else _spelling(parameter)
        value = parameter.default if not isinstance(parameter.default, bool) else ("on" if parameter.default else None)
        default = "" if value is None or callable(value) else f"`{value}`"
        lines.append(f"| {spelling} | {(parameter.help or '').replace('|', '/')} | {default} |")
    return "\n".join(lines)


def _spelling(option: Any) -> str:
    names = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    kind = option.display_type(None).strip("<>").partition(" ")[0]
    return names if option.is_flag else f"{names} {kind}"


def schema() -> str:
    """Return tables of an allocation's fields, one per type."""
    from pmq.core import Allocation

    definition = Allocation.json_schema()
    tables = [_fields("", definition)]
    tables += [_fields(name, nested) for name, nested in definition["$defs"].items() if "properties" in nested]
    return "\n\n".join(tables)


def _fields(title: str, definition: dict[str, Any]) -> str:
    about = definition.get("description", "").partition("\n")[0].replace("``", "`")
    lines = [f"### {title}", "", about, ""] if title else []
    lines += ["| field | type | required |", "|---|---|---|"]
    for name, field in definition["properties"].items():
        lines.append(f"| `{name}` | {_type(field)} | {'yes' if name in definition.get('required', ()) else ''} |")
    return "\n".join(lines)


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(alternative) for alternative in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    if field.get("type") == "array":
        return f"array of {_type(field.get('items', {}))}"
    return str(field.get("type", "any"))
