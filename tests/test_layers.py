"""The layers of docs/architecture.md, read from the imports: no upward arrow, no cycle, each library in its room."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import LONG_FILES

ROOT = Path(__file__).parents[1]
FOLDERS = ("discovr_ray", "jobs", "benchmarks")
# longest matching prefix wins
LAYERS = {
    "discovr_ray": 5,  # the package's front door may name anything below
    "discovr_ray.errors": 0,
    "discovr_ray.config": 0,
    "discovr_ray.schedules": 0,
    "discovr_ray.randomness": 0,
    "discovr_ray.data": 1,
    "discovr_ray.data.stream": 2,
    "discovr_ray.model": 1,
    "discovr_ray.model.discovr": 2,
    "discovr_ray.model.weights": 2,
    "discovr_ray.objective": 1,
    "discovr_ray.train": 3,
    "discovr_ray.evaluate": 3,
    "discovr_ray.exchange": 3,
    "discovr_ray.sweep": 3,
    "discovr_ray.launch": 4,
    "discovr_ray.report": 4,
    "jobs": 5,
    "benchmarks": 5,
}
# the arrows inside a layer: a run writes its report; a sweep judges a trial by the signs of collapse of training
SIDEWAYS = {("discovr_ray.launch", "discovr_ray.report"), ("discovr_ray.sweep", "discovr_ray.train")}
# library -> where it may be imported at all
HOMES = {
    "ray": ("discovr_ray.data.stream", "discovr_ray.launch", "jobs", "benchmarks"),
    "deepspeed": ("discovr_ray.train.engine", "benchmarks"),
}
# rooms that must run on a bare GPU machine -> what they may import at module level, besides themselves and layer 0
LIGHT_ROOMS = {
    "discovr_ray.model": {"torch", "timm", "numpy", "safetensors"},
    "discovr_ray.objective": {"torch", "numpy"},
    "discovr_ray.config": {"yaml"},
    "discovr_ray.errors": set(),
    "discovr_ray.schedules": set(),
    "discovr_ray.randomness": {"numpy"},
}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


class Import(NamedTuple):
    target: str
    line: int
    at_module_level: bool


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def imports_of(tree: ast.Module, module: str, is_package: bool, known: set[str]) -> Iterator[Import]:
    """Every import of a module; `from a import b` counts as a.b where a.b is one of our modules."""
    inner = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield Import(target, node.lineno, id(node) not in inner)


def layer_of(module: str) -> int | None:
    parts = module.split(".")
    if parts == ["discovr_ray"]:
        return LAYERS["discovr_ray"]
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in LAYERS and prefix != "discovr_ray":
            return LAYERS[prefix]
    return None


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of the import graph, as a path that ends where it starts; [] when there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, set())):
            cycle = visit(target, [*path, module])
            if cycle:
                return cycle
        done.add(module)
        return []

    return next((cycle for module in sorted(graph) if (cycle := visit(module, []))), [])


def check_import(module: str, found: Import) -> Iterator[str]:
    top = found.target.split(".")[0]
    if top in HOMES and not inside(module, HOMES[top]):
        yield f"{module}:{found.line} imports {top}; only {', '.join(HOMES[top])} may"
    layer, target_layer = layer_of(module), layer_of(found.target)
    allowed = LIGHT_ROOMS.get(room_of(module))
    at_home = target_layer == 0 or inside(found.target, (room_of(module),))
    if allowed is not None and found.at_module_level and not at_home and top not in allowed | sys.stdlib_module_names:
        yield f"{module}:{found.line} imports {found.target} at module level"
    if layer is None or target_layer is None:
        return
    rooms = (room_of(module), room_of(found.target))
    sideways = target_layer == layer and 0 < layer < 5 and rooms[0] != rooms[1] and rooms not in SIDEWAYS
    if target_layer > layer or sideways:
        yield f"{module}:{found.line} (layer {layer}) imports {found.target} (layer {target_layer})"


def violations(root: Path) -> list[str]:
    """Everything in `root` that breaks the rules, one line each."""
    paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    known = {module_name(path, root) for path in paths}
    problems = [
        f"{path.relative_to(root)}: say what it does instead of '{part}'"
        for path in paths
        for part in path.relative_to(root).with_suffix("").parts
        if part in VAGUE_NAMES
    ]
    graph: dict[str, set[str]] = {}
    for path in paths:
        module = module_name(path, root)
        tree = ast.parse(path.read_text(), filename=str(path))
        if layer_of(module) is None:
            problems.append(f"{module}: belongs to no layer; add its room to LAYERS and docs/architecture.md")
        found = list(imports_of(tree, module, path.name == "__init__.py", known))
        problems += [problem for item in found for problem in check_import(module, item)]
        graph[module] = {item.target for item in found if item.target in known}
        if inside(module, ("discovr_ray",)):
            problems += [
                f"{module}:{node.lineno} prints; use logging"
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            ]
    cycle = find_cycle(graph)
    return [*problems, *([f"cycle: {' -> '.join(cycle)}"] if cycle else [])]


def test_the_code_keeps_the_layers() -> None:
    assert violations(ROOT) == []


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"discovr_ray/data/decode.py": "from discovr_ray.train.loop import run\n"}, "(layer 1) imports"),
        ({"discovr_ray/data/decode.py": "def f():\n    import discovr_ray.launch.worker\n"}, "(layer 1) imports"),
        ({"discovr_ray/model/vit.py": "from discovr_ray.data import clip\n"}, "(layer 1) imports"),
        ({"discovr_ray/errors.py": "from ..discovr_ray import train\n"}, "(layer 0) imports"),
        ({"discovr_ray/train/loop.py": "from ..launch import worker\n"}, "(layer 3) imports"),
        ({"discovr_ray/report/page.py": "from discovr_ray.launch import worker\n"}, "(layer 4) imports"),
        ({"discovr_ray/train/loop.py": "import jobs.pretrain\n"}, "(layer 3) imports"),
        (
            {
                "discovr_ray/train/loop.py": "from discovr_ray.train import engine\n",
                "discovr_ray/train/engine.py": "def f():\n    from discovr_ray.train.loop import run\n",
            },
            "cycle: discovr_ray.train.engine -> discovr_ray.train.loop -> discovr_ray.train.engine",
        ),
        ({"discovr_ray/train/loop.py": "import ray.train\n"}, "imports ray; only"),
        ({"discovr_ray/data/manifest.py": "def f():\n    from ray import data\n"}, "imports ray; only"),
        ({"discovr_ray/train/ema.py": "import deepspeed\n"}, "imports deepspeed; only"),
        ({"jobs/pretrain.py": "from deepspeed import initialize\n"}, "imports deepspeed; only"),
        ({"discovr_ray/config/loading.py": "from pydantic import TypeAdapter\n"}, "pydantic at module level"),
        ({"discovr_ray/model/discovr.py": "from discovr_ray.data import clip\n"}, "data.clip at module level"),
        ({"discovr_ray/objective/scd.py": "import timm\n"}, "timm at module level"),
        ({"discovr_ray/data/utils.py": "x = 1\n"}, "instead of 'utils'"),
        ({"discovr_ray/common/clip.py": "x = 1\n"}, "instead of 'common'"),
        ({"discovr_ray/newroom/clip.py": "x = 1\n"}, "belongs to no layer"),
        ({"discovr_ray/train/loop.py": "def f():\n    print('step')\n"}, "prints; use logging"),
    ],
)
def test_planted_violations_are_found(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    everything = {
        "discovr_ray/launch/worker.py": "",
        "discovr_ray/data/clip.py": "",
        "discovr_ray/train/__init__.py": "",
    }
    plant(tmp_path, {**everything, **files})
    assert any(expected in problem for problem in violations(tmp_path))


def test_allowed_imports_are_left_alone(tmp_path: Path) -> None:
    files = {
        "discovr_ray/__init__.py": "from discovr_ray.model.weights import load_encoder\n",
        "discovr_ray/model/weights.py": "from discovr_ray.model import vit\nfrom discovr_ray.config import Config\n",
        "discovr_ray/model/vit.py": "import timm\nfrom discovr_ray.errors import ConfigError\n",
        "discovr_ray/config/__init__.py": "from discovr_ray.config.loading import load\n",
        "discovr_ray/config/loading.py": "def load():\n    import pydantic\n",
        "discovr_ray/errors.py": "",
        "discovr_ray/data/stream.py": "import ray.data\nfrom discovr_ray.data import clip\n",
        "discovr_ray/data/clip.py": "def blueprint(): pass\nblueprint()\n",
        "discovr_ray/train/engine.py": "import deepspeed\n",
        "discovr_ray/launch/trainer.py": "import ray\nfrom discovr_ray.train import engine\n",
        "discovr_ray/launch/worker.py": "from discovr_ray.report import page\n",
        "discovr_ray/report/page.py": "import plotly\n",
        "jobs/pretrain.py": "import ray\nfrom discovr_ray.launch import trainer\nprint('hello')\n",
    }
    plant(tmp_path, files)
    assert violations(tmp_path) == []


def test_no_two_modules_of_the_tests_have_one_name() -> None:
    """pytest puts their folders on the path, where the second would be taken for the first."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_the_long_files_that_are_begun_first_exist() -> None:
    assert {*LONG_FILES} - {path.name for path in (ROOT / "tests").rglob("test_*.py")} == set()
