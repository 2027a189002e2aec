"""The pages keep their word: every file, link, command, test and configuration field they name exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from discovr_ray.config import Config, load_config, parse_config

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "cluster/*.md", "sweeps/*.md") for path in ROOT.glob(pattern))
SOURCE_FOLDERS = ("discovr_ray", "jobs", "benchmarks", "tests", "docs", "cluster", "sweeps", ".ci")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_blocks(text: str, language: str = r"\w*") -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)  # of all languages, or ends would open
    return [block for name, block in blocks if re.fullmatch(language, name)]


def commands(text: str) -> list[str]:
    """Shell lines of a page, with continued lines joined and comments cut off."""
    lines = "\n".join(code_blocks(text, r"(?:bash)?")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def missing_links(page: Path) -> list[str]:
    """Relative Markdown links that lead nowhere."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    return [target for target in targets if "://" not in target and not (page.parent / target).exists()]


def missing_paths(text: str) -> list[str]:
    """Paths below our folders, in code marks or commands, that are not there."""
    named = re.findall(rf"(?<![\w/.<>-])((?:{'|'.join(map(re.escape, SOURCE_FOLDERS))})/[\w./-]*)", text)
    return sorted({path for path in named if not (ROOT / path.rstrip(".")).exists()})


def missing_tests(text: str) -> list[str]:
    """Names of the form tests/file.py::test_name that no file defines."""
    named = re.findall(r"(tests/[\w./]+\.py)::(\w+)", text)
    return [f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text()]


def module_from(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    assert missing_links(page) == []


@every_page
def test_named_files_and_tests_exist(page: Path) -> None:
    text = page.read_text()
    assert missing_paths(text) == []
    assert missing_tests(text) == []


@every_page
def test_named_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    lines = "\n".join(commands(text))
    named = {*re.findall(r"^make ([a-z-]+)", lines, re.MULTILINE), *re.findall(r"`make ([a-z-]+)[^`]*`", text)}
    assert named <= targets


@every_page
def test_pretraining_commands_have_a_valid_configuration(page: Path) -> None:
    for line in commands(page.read_text()):
        words = shlex.split(line.partition("jobs/pretrain.py")[2])
        if words:
            config = words[words.index("--config") + 1]
            overrides = [word for word in words if "=" in word]
            load_config("demo" if config == "my_run.yaml" else config, overrides)


@every_page
def test_ingest_commands_are_understood(page: Path) -> None:
    parse = module_from(ROOT / "jobs/ingest.py").parse_arguments
    for line in commands(page.read_text()):
        words = shlex.split(line.partition("jobs/ingest.py")[2], comments=True)
        if words and words != ["--help"]:
            assert parse(words).output


@every_page
def test_evaluation_commands_are_understood(page: Path) -> None:
    job = module_from(ROOT / "jobs/evaluate.py")
    for line in commands(page.read_text()):
        words = shlex.split(line.partition("jobs/evaluate.py")[2], comments=True)
        if words:
            assert job.settings(job.parse_arguments(words)).classes.label


def test_the_readmes_dry_run_runs(tmp_path: Path) -> None:
    (line,) = [
        line for line in commands((ROOT / "README.md").read_text()) if "--config paper_vit_base --dry-run" in line
    ]
    words = [sys.executable, *shlex.split(line)[1:], f"run.storage_path={tmp_path}"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "202.8 M trained" in result.stdout
    assert list(tmp_path.iterdir()) == []


JOBS = sorted((ROOT / "jobs").glob("*.py"))
# in one process: most of a job's start is the import of torch and Ray
ASK_ALL = """
import contextlib, io, json, runpy, sys
answers = {}
for job in sys.argv[1:]:
    said, sys.argv = io.StringIO(), [job, "--help"]
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(job, run_name="__main__")
    except SystemExit as end:
        answers[job] = [end.code, said.getvalue()]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, list[Any]]:
    """Of every job to --help: exit code and output."""
    command = [sys.executable, "-c", ASK_ALL, *map(str, JOBS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found: dict[str, list[Any]] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_every_job_explains_itself(answers: dict[str, list[Any]], job: Path) -> None:
    code, text = answers[str(job)]
    assert not code
    assert f"usage: {job.name}" in text


@every_page
def test_yaml_examples_are_valid_configurations(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(code_blocks(page.read_text(), "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        load_config(path)


@every_page
def test_no_page_names_a_machine_of_ours(page: Path) -> None:
    assert re.findall(r"/root/\S*|/home/\w+", page.read_text()) == []


def test_every_deviation_from_the_reference_names_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", (ROOT / "docs/method.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 14))
    assert [number for number, tests in rows if "::test_" not in tests] == []


def test_every_make_target_is_explained() -> None:
    listed = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    for target in phony.group(1).split():
        assert re.search(rf"^  {target} +\w", listed, re.MULTILINE), target


def test_planted_mistakes_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](absent.md) [b](https://example.org/x) [c](page.md#part)")
    assert missing_links(page) == ["absent.md"]
    assert missing_paths("`discovr_ray/absent.py`, `tests/conftest.py`, docs/method.md.") == ["discovr_ray/absent.py"]
    assert missing_tests("`tests/test_docs.py::test_absent` `tests/test_docs.py::test_planted_mistakes_are_found`") == [
        "tests/test_docs.py::test_absent"
    ]
    assert commands("```bash\nmake a   # why\nray \\\n  job\n```\n```python\nimport x\n```\n") == [
        "make a",
        "ray    job",
    ]


# ---- the configuration table


def table_maker() -> ModuleType:
    return module_from(ROOT / "docs/make_config_table.py")


def test_the_configuration_table_is_up_to_date() -> None:
    page = (ROOT / "docs/config.md").read_text()
    assert table_maker().page_with_tables(page) == page, "run: python docs/make_config_table.py"


def test_the_configuration_table_has_every_field_with_its_default() -> None:
    """Reads the page on its own, without the script that wrote it."""
    row = re.compile(r"^\| `(\w+)\.(\w+)` \| `(.*?)` \| .+? \| (.+) \|$", re.MULTILINE)
    rows = row.findall((ROOT / "docs/config.md").read_text())
    values: dict[str, dict[str, object]] = {}
    for section, name, default, meaning in rows:
        assert len(meaning) > 3, f"{section}.{name}"
        values.setdefault(section, {})[name] = default
    assert {section: set(fields) for section, fields in values.items()} == {
        section: set(fields) for section, fields in Config().to_dict().items()
    }
    overrides = [f"{section}.{name}={default}" for section, name, default, _ in rows]
    assert load_config("paper_vit_base", overrides) == parse_config({})


def test_a_changed_default_would_be_noticed() -> None:
    page = (ROOT / "docs/config.md").read_text()
    assert table_maker().page_with_tables(page.replace("| `16384` |", "| `16385` |")) == page


# ---- the repository's own files


def test_every_python_extra_that_make_installs_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"test", "dev"} <= set(extras)


def test_markers_are_explained() -> None:
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for marker in markers:
        assert f"| `{marker.split(':')[0]}` |" in page


def test_changelog_has_the_agreed_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    allowed = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= allowed
    entries = text.split("## [Unreleased]")[1]
    assert all(line.startswith(("- ", "###")) or not line.strip() for line in entries.splitlines())
