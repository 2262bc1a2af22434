"""Reference pages from the code, and checks of all pages: `python scripts/docs.py [--check]`.

Writes docs/reference/{cli,settings,api,fleet-files}.md and the schema of fleet files. With --check
nothing is written: the pages must be as the code says, links between pages must lead somewhere,
Python examples must compile, and fleet files in examples must be right.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def cli_page() -> str:
    from modelfleet.cli.main import cli

    lines = ["# Command line", "", "Made from the code by `make docs`.", ""]
    for path, command in _commands(cli, ["modelfleet"]):
        context = click.Context(command, info_name=" ".join(path))
        usage = command.get_usage(context).removeprefix("Usage: ")
        lines += [f"## {' '.join(path)}", "", f"    {usage}", "", _help(command), ""]
        options = [p for p in command.params if isinstance(p, click.Option)]
        for option in options:
            lines.append(f"- `{', '.join(option.opts)}` {option.help or ''}".rstrip())
        if options:
            lines.append("")
    return "\n".join(lines)


def _commands(group: click.Command, path: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from _commands(command, [*path, name])


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")


def settings_page() -> str:
    from modelfleet.core import settings

    lines = [
        "# Settings",
        "",
        "Made from the code by `make docs`. Each can stand in `HOME/settings.toml`, in the",
        "environment (`MODELFLEET_PORT`, `MODELFLEET_SERVING__REPLICAS`) or, for the first few,",
        "on the command line of `modelfleet up`; the later source wins.",
        "",
    ]
    source = ast.parse(inspect.getsource(settings))
    classes = {node.name: node for node in source.body if isinstance(node, ast.ClassDef)}
    top = settings.Settings
    groups = {name: kind for name, kind in top.__annotations__.items() if kind in classes}
    for title, name in [("", "Settings"), *groups.items()]:
        node, kind = classes[name], getattr(settings, name)
        defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
        lines += [
            f"## {'[' + title + ']' if title else 'Top level'}",
            "",
            ast.get_docstring(node) or "",
        ]
        lines += ["", "| name | default | meaning |", "|---|---|---|"]
        for field, text in _documented(node):
            if field in groups:
                continue
            default = "" if defaults[field] is msgspec.NODEFAULT else f"`{defaults[field]}`"
            lines.append(f"| `{field}` | {default} | {text} |")
            if not text:
                raise SystemExit(f"The setting {name}.{field} is not explained.")
        lines.append("")
    return "\n".join(lines)


def _documented(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for place, statement in enumerate(node.body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        after = node.body[place + 1] if place + 1 < len(node.body) else None
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        yield statement.target.id, text


def api_page() -> str:
    from modelfleet.app import create_app
    from modelfleet.core.settings import load_settings
    from modelfleet.wiring import build

    with tempfile.TemporaryDirectory() as home:
        fleet = build(load_settings(Path(home), environment={}))
        schema = create_app(fleet).openapi()
        fleet.database.close()
    lines = [
        "# REST API",
        "",
        "Made from the code by `make docs`; the whole schema is at `/v1/openapi.json`. Errors are",
        "`application/problem+json` (RFC 9457) with a stable `type`. *Asks for* is what the caller",
        "must be allowed to do; `public` needs no key.",
        "",
        "| call | asks for | what it does |",
        "|---|---|---|",
    ]
    for path, calls in schema["paths"].items():
        for method, call in calls.items():
            text = call.get("description") or call["summary"]
            first = " ".join(text.split("\n\n")[0].split())
            lines.append(
                f"| `{method.upper()} {path}` | {call.get('x-permission', '')} | {first} |"
            )
    return "\n".join([*lines, ""])


def fleet_files_page() -> str:
    from modelfleet.fleetfile.schema import schema

    lines = [
        "# Fleet files: every key",
        "",
        "Made from the code by `make docs`. [Fleet files](../fleet-files.md) tells how it is used;",
        "the same as a JSON Schema for editors: [fleet-schema.json](fleet-schema.json), which",
        "`modelfleet schema` prints. Durations are written `200ms`, `15m`, `1h30m`, `7d`; shares",
        "`5%` or `0.05`; ratios `1.2x`; sizes `400Mi`, `2G`.",
        "",
    ]
    defs = schema()["$defs"]
    order = ["FleetDocument", "ModelDocument", "PipelineDocument"]
    for name in [*order, *sorted(set(defs) - set(order))]:
        one = defs[name]
        if name == "GateEntry":
            one = one["anyOf"][1]
        text = " ".join(one.get("description", "").split())
        if "properties" not in one:
            continue
        lines += [
            f"## {name}",
            "",
            text,
            "",
            "| key | value | default | meaning |",
            "|---|---|---|---|",
        ]
        for key, field in one["properties"].items():
            needed = key in one.get("required", ())
            default = "needed" if needed else _json(field.get("default"))
            meaning = " ".join(field.get("description", "").split())
            lines.append(f"| `{key}` | {_value(field)} | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _json(value: object) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def _value(field: dict[str, Any]) -> str:
    """What may stand there, in a few words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "examples" in field:
        return f"like `{field['examples'][0]}`"
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        found = [_value(one) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(found))
    kind = field.get("type")
    if kind == "array":
        return f"list of {_value(field.get('items', {}))}"
    if kind == "object":
        below = field.get("additionalProperties")
        return f"mapping to {_value(below)}" if isinstance(below, dict) and below else "mapping"
    words = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
    }
    return words.get(str(kind), "anything")


def fleet_schema() -> str:
    from modelfleet.fleetfile.schema import schema

    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]


def complaints() -> Iterator[str]:
    for page in pages():
        text = page.read_text("utf-8")
        for target in _LINK.findall(text):
            if "://" not in target and not (page.parent / target).exists():
                yield f"{page.relative_to(ROOT)}: the link to {target} leads nowhere"
        for code in _CODE.findall(text):
            try:
                compile(code, str(page), "exec")
            except SyntaxError as error:
                yield f"{page.relative_to(ROOT)}: an example does not compile: {error}"
        yield from _wrong_documents(page, text)


def _wrong_documents(page: Path, text: str) -> Iterator[str]:
    """Examples of fleet files are loaded, those of a page together."""
    from modelfleet.fleetfile.load import load
    from modelfleet.fleetfile.problems import Refused

    found = [code for code in _YAML.findall(text) if code.startswith("apiVersion: modelfleet.dev")]
    if not found:
        return
    with tempfile.TemporaryDirectory() as work:
        for number, code in enumerate(found):
            fleet = "\nkind: Fleet" in code
            name = "fleet.yaml" if fleet else f"{number}.model.yaml"
            (Path(work) / name).write_text(code)
        try:
            load(Path(work))
        except Refused as refused:
            for one in refused.problems:
                yield f"{page.relative_to(ROOT)}: an example is wrong: {one}"


def main() -> int:
    check = "--check" in sys.argv[1:]
    made = {
        "cli.md": cli_page(),
        "settings.md": settings_page(),
        "api.md": api_page(),
        "fleet-files.md": fleet_files_page(),
        "fleet-schema.json": fleet_schema(),
    }
    wrong = []
    for name, text in made.items():
        path = REFERENCE / name
        if check and (not path.exists() or path.read_text("utf-8") != text):
            wrong.append(f"docs/reference/{name} is not what the code says: run `make docs`")
        elif not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    wrong += complaints()
    for complaint in wrong:
        sys.stderr.write(complaint + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
