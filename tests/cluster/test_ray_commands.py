"""Every `ray ...` of pages and cluster files is understood by Ray's own command line: names of commands and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cluster_files import ROOT
from ray.scripts.scripts import cli

FILES = [
    path
    for pattern in ("*.md", "Makefile", "docs/*.md", "cluster/**/*", "jobs/*.py", "benchmarks/*.py", "sweeps/*")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file()
]


def ray_commands(text: str) -> Iterator[list[str]]:
    """Words behind `ray`: a command at the start of a line or of a part of one, with its continuation lines."""
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r"(?m)^( *)- >-\n((?:\1 +.*\n)+)", lambda folded: f"- {' '.join(folded[2].split())}\n", text)
    # not in the middle of a sentence, unless it is marked as code
    starts = r"(?m)(?:^[#\s]*|^ *- |[`;] *|/bin/|nohup |=\S+ |--overlap -w \S+ +)ray ([a-z][^`\n;|&>]*)"
    for found in re.finditer(starts, text):
        yield re.sub(r"[\[\]'\"()]", " ", found[1].split("  #")[0]).split()


def problem(words: list[str]) -> str:
    """What Ray would say about the command itself; missing values are no matter, prose stops at a bare command."""
    command: click.Command = cli
    name = "ray"
    while isinstance(command, click.Group):
        if not words:
            return ""
        name, words = words[0], words[1:]
        inner = command.get_command(click.Context(command), name)
        if inner is None:
            return f"no command {name}"
        command = inner
    known = {option for parameter in command.params for option in parameter.opts}
    given = [word.partition("=")[0] for word in words[: words.index("--") if "--" in words else None]]
    return " ".join(word for word in given if word.startswith("--") and word not in known)


def test_enough_commands_are_found() -> None:
    found = [words[0] for path in FILES for words in ray_commands(path.read_text())]
    assert {"up", "down", "dashboard", "get-auth-token", "job", "start", "stop"} <= set(found)
    (worker, head) = (
        [words for words in ray_commands((ROOT / "cluster/aws.yaml").read_text()) if flag in " ".join(words)]
        for flag in ("start --address", "start --head")
    )
    assert "--metrics-export-port=8080" in worker[0]  # of the second line
    assert "--dashboard-host=127.0.0.1" in head[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(Path(path).relative_to(ROOT)))
def test_ray_knows_the_commands(path: Path) -> None:
    problems = {" ".join(words): problem(words) for words in ray_commands(path.read_text())}
    assert {words: what for words, what in problems.items() if what} == {}


def test_planted_typos_are_found() -> None:
    (words,) = ray_commands("    - >-\n        ulimit; X=1 ray start --head\n        --dashboard-hots=1\n")
    assert problem(words) == "--dashboard-hots"
    found = [problem(words) for words in ray_commands("ray jobs list\nray job sbmit -- x")]
    assert found == ["no command jobs", "no command sbmit"]
    assert list(ray_commands("the ray of light --x")) == []
