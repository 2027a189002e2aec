"""YAML and `section.field=value` overrides -> a resolved, checked Config. Pydantic is used here alone."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from discovr_ray.config.rules import check_config
from discovr_ray.config.sections import MODEL_SIZES, Config
from discovr_ray.errors import ConfigError

PRESET_DIR = Path(__file__).parents[1] / "presets"


def load_config(source: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a preset name or a YAML file, apply `section.field=value` overrides, check everything.

    Errors:
        ConfigError: the file cannot be read, or any key, type or combination is wrong; lists all of them.
    """
    values = read_yaml(source)
    problems = [problem for override in overrides for problem in _apply_override(values, override)]
    return _parse(values, problems)


def parse_config(values: Mapping[str, Any]) -> Config:
    """Nested dict -> resolved, checked Config.

    Errors:
        ConfigError: unknown keys (with the nearest valid name), wrong types, impossible combinations; all together.
    """
    return _parse(values, [])


def check_types(values: Mapping[str, Any]) -> list[str]:
    """Unknown keys, with the nearest valid name, and wrong types, one line each; no other rule."""
    return _validate(dict(values))[1]


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESET_DIR.glob("*.yaml"))


def _parse(values: Mapping[str, Any], problems: list[str]) -> Config:
    config, refused = _validate({key: {} if section is None else section for key, section in values.items()})
    resolved = _resolve(config)
    # a refused field or section stands at its default in `config`: rules that name it would report what nobody wrote
    names = [re.escape(problem.split(maxsplit=1)[0].rstrip(":")) for problem in refused]
    about_refused = re.compile(rf"\b({'|'.join(names)})\b") if names else None
    broken = [line for line in check_config(resolved) if not (about_refused and about_refused.search(line))]
    if problems or refused or broken:
        raise ConfigError([*problems, *refused, *broken])
    return resolved


def _validate(values: dict[str, Any]) -> tuple[Config, list[str]]:
    """The configuration without its unknown keys and wrongly typed values, and one line for each of those."""
    from pydantic import TypeAdapter, ValidationError  # only needed to load, so that model code runs without it

    try:
        # JSON mode: strict about types, yet a list is accepted where a tuple is declared
        return TypeAdapter(Config).validate_json(json.dumps(values), strict=True), []
    except ValidationError as error:
        items = error.errors()
    except TypeError as error:
        reason = f"configuration holds a value that is no plain number, text, list or mapping: {error}"
        raise ConfigError([reason]) from None
    if not all(item["loc"] for item in items):  # nothing that could be taken out
        raise ConfigError([item["msg"] for item in items])
    lines = list(dict.fromkeys(_explain(item) for item in items))  # a union reports one item per member
    rest, _ = _validate(_without(values, [item["loc"] for item in items]))
    return rest, lines


def _without(values: dict[str, Any], locations: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Copy of `values` without the sections or fields at `locations`."""
    sections = {str(location[0]) for location in locations if len(location) == 1}
    keys = {(str(location[0]), str(location[1])) for location in locations if len(location) > 1}
    return {
        section: {name: value for name, value in content.items() if (section, str(name)) not in keys}
        for section, content in ((str(key), content) for key, content in values.items())
        if section not in sections
    }


def _resolve(config: Config) -> Config:
    width, depth, heads, mlp_ratio = MODEL_SIZES[config.model.size]
    model = dataclasses.replace(
        config.model,
        width=config.model.width or width,
        depth=config.model.depth or depth,
        heads=config.model.heads or heads,
        mlp_ratio=config.model.mlp_ratio or mlp_ratio,
    )
    return dataclasses.replace(config, model=model)


class YamlLoader(yaml.SafeLoader):
    """YAML 1.1 with three surprises taken out: 1e-6 is a number, a date is text, and no key stands twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own attribute)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_yaml(source: str | Path) -> dict[str, Any]:
    """A preset's or a file's mapping, unchecked.

    Errors:
        ConfigError: not there, not readable, or no mapping.
    """
    path = PRESET_DIR / f"{source}.yaml" if str(source) in preset_names() else Path(source)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        known = ", ".join(preset_names())
        raise ConfigError([f"config {str(source)!r}: no preset ({known}) and not a readable file: {reason}"]) from None
    try:
        values = yaml.load(text, Loader=YamlLoader)
    except yaml.YAMLError as error:
        raise ConfigError([f"config {str(source)!r}: not valid YAML: {error}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"config {str(source)!r}: must be a mapping of sections, got {type(values).__name__}"])
    return values


def _apply_override(values: dict[str, Any], override: str) -> list[str]:
    """Set one field in `values`; what is wrong with the override's form comes back."""
    key, separator, text = override.partition("=")
    section_name, dot, name = key.partition(".")
    if not (separator and dot and section_name and name) or "." in name:
        return [f"override {override!r}: must have the form section.field=value"]
    try:
        value = _override_value(section_name, name, text)
    except yaml.YAMLError as error:
        return [f"override {override!r}: value is not valid YAML: {error}"]
    if values.get(section_name) is None:
        values[section_name] = {}
    if isinstance(values[section_name], dict):  # anything else is refused when the section is read
        values[section_name][name] = value
    return []


def _override_value(section_name: str, name: str, text: str) -> Any:
    """YAML, but for text fields: to YAML, ` #` in a path starts a comment, and a run named 2024 is a number."""
    if _is_text(section_name, name) and not _is_quoted(text):
        return text
    return yaml.load(text, Loader=YamlLoader) if text else ""


def _is_text(section_name: str, name: str) -> bool:
    section = get_type_hints(Config).get(section_name)
    hint = get_type_hints(section).get(name) if section else None
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    return hint is str or (bool(choices) and all(isinstance(choice, str) for choice in choices))


def _is_quoted(text: str) -> bool:
    """As in split='', which a shell passes on when it stands in a script's quotes."""
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\""


def _explain(item: Any) -> str:
    """One pydantic error -> our one line: field, value, rule."""
    location = [str(part) for part in item["loc"]]
    key = ".".join(location[:2])
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: unknown {'section' if len(location) == 1 else 'field'}{_nearest(location)}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{key} = {item['input']!r}: {message}"


def _nearest(location: list[str]) -> str:
    if len(location) == 1:
        valid = [section.name for section in fields(Config)]
    else:
        valid = [item.name for item in fields(getattr(Config(), location[0]))]
    matches = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else f"; valid names: {', '.join(valid)}"
