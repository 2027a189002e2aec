"""Write the tables of docs/config.md from discovr_ray/config/sections.py: `python docs/make_config_table.py`.

tests/test_docs.py fails when the tables are not what this script would write.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from discovr_ray.config import Config
from discovr_ray.config.rules import ABOVE_ZERO, BELOW_ONE, RANGES

PAGE = Path(__file__).with_name("config.md")
START, END = "<!-- tables: start, by docs/make_config_table.py -->", "<!-- tables: end -->"


def tables() -> str:
    """One Markdown table per section: field, default, allowed values, meaning with unit."""
    hints = get_type_hints(Config)
    return "\n\n".join(section_table(item.name, hints[item.name]) for item in dataclasses.fields(Config))


def section_table(name: str, section: type[Any]) -> str:
    meanings, hints = comments(section), get_type_hints(section)
    rows = [
        f"| `{name}.{item.name}` | `{default_text(item)}` | {allowed(f'{name}.{item.name}', hints[item.name])} "
        f"| {meanings[item.name]} |"
        for item in dataclasses.fields(section)
    ]
    summary = " ".join((section.__doc__ or "").split())
    return "\n".join(
        [f"### {name}\n\n{summary}\n", "| field | default | allowed | meaning |", "|---|---|---|---|", *rows]
    )


def comments(section: type[Any]) -> dict[str, str]:
    """Field -> the comment behind it in the source.

    Errors:
        KeyError: later, at the field that has none.
    """
    source = inspect.getsource(section)
    return {name: text.strip() for name, text in re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE)}


def default_text(item: dataclasses.Field[Any]) -> str:
    """The default as it would be written in YAML."""
    value = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
    plain = list(value) if isinstance(value, tuple) else value
    return str(yaml.safe_dump(plain, default_flow_style=True)).removesuffix("...\n").strip()


def allowed(key: str, hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if key in ABOVE_ZERO:
        return "number, 0 or above" if key == "model.mlp_ratio" else "number above 0"
    if hint == (int | tuple[int, int]):
        return "integer, at least 1, or [min, max]"
    kind = {int: "integer", float: "number", bool: "`true`, `false`", str: "text"}.get(hint, "")
    if key in RANGES:
        low, high = RANGES[key]
        if high is None:
            zero = "0 or " if key in ("model.width", "model.depth", "model.heads") else ""
            return f"{kind}, {zero}at least {low:g}"
        highest = "2^63 - 1" if high == 2**63 - 1 else f"{high:g}"
        return f"{kind}, {low:g} to {'below ' if key in BELOW_ONE else ''}{highest}"
    return kind or ("mapping" if get_origin(hint) is dict else "list of numbers")


def page_with_tables(page: str) -> str:
    head, _, rest = page.partition(START)
    return f"{head}{START}\n{tables()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text()))
