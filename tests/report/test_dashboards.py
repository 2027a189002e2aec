"""jobs/dashboard.py on a real sweep: both programs answer with its trials and draw them, and end with Ctrl-C."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from page_reader import CHROMIUM, drawn_page, screenshot
from trained_trials import METRIC, WEIGHT, make_sweep

from discovr_ray.data import storage
from discovr_ray.errors import SweepError
from discovr_ray.report.dashboards import free_port, serve_dashboards

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("sweep"), 5)


@contextmanager
def pages(*arguments: str) -> Iterator[dict[str, str]]:
    """Links of a job that runs; afterwards it is interrupted and must end well, and with it both servers."""
    command = [sys.executable, "-u", "jobs/dashboard.py", *arguments]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: dict[str, str] = {}
    try:
        assert job.stdout is not None
        for line in job.stdout:
            name, _, link = line.partition(" ")
            if name == "Ctrl-C":
                break
            found[name] = link.strip()
        yield found
        job.send_signal(signal.SIGINT)
        assert job.wait(60) == 0
    finally:
        job.kill()
    for link in found.values():
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(link, timeout=5)


@pytest.fixture
def links(sweep_folder: Path) -> Iterator[dict[str, str]]:
    with pages(str(sweep_folder)) as found:
        yield found


def answer(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as page:
        return json.load(page)


def runs_in(curves: str, wanted: int) -> list[str]:
    """TensorBoard reads one run after another, and looks for new ones every five seconds."""
    end = time.monotonic() + 60
    while len(tags := answer(f"{curves}/tags")) < wanted and time.monotonic() < end:
        time.sleep(0.5)
    return sorted(tags)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
def test_both_pages_show_the_trials(links: dict[str, str], sweep_folder: Path, tmp_path: Path) -> None:
    assert all(link.startswith("http://127.0.0.1:") for link in links.values())
    server, _, number = links["study"].partition("/dashboard/studies/")
    study = answer(f"{server}/api/studies/{number}")
    assert study["name"] == "three"
    assert [trial["state"] for trial in study["trials"]] == ["Complete", "Pruned", "Fail", "Complete", "Pruned"]
    drawn = drawn_page(links["study"], tmp_path)
    assert drawn.count('class="trace scatter') >= 2, "history"
    assert WEIGHT in drawn, "a field, in the importances or the best trial"
    shown = screenshot(links["study"], tmp_path, 1000)
    assert (np.abs(shown - (171, 99, 250)).max(axis=-1) < 40).sum() > 100, "the line of the best so far"

    curves = f"{links['curves']}data/plugin/scalars"
    assert runs_in(curves, 5) == [f"0000{number}/tensorboard" for number in range(5)]
    logged = answer(f"{curves}/scalars?run=00000/tensorboard&tag={METRIC}")
    assert [step for _, step, _ in logged] == list(range(5, 65, 5))
    record = json.loads((sweep_folder / "trials/00000/metrics.jsonl").read_text().splitlines()[-1])
    assert logged[-1][2] == pytest.approx(record[METRIC], rel=1e-6)  # TensorBoard keeps fp32
    pixels = screenshot(f"{links['curves']}#scalars&tagFilter={METRIC}", tmp_path, 1000)[
        150:, 350:
    ]  # without header, list
    lines = np.ptp(pixels, axis=-1) > 100  # of all there is on the right, the curves alone have strong colours
    assert lines.sum() > 300


def upload(folder: Path, uri: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            storage.put_file(str(path), storage.join(uri, *path.relative_to(folder).parts))


@pytest.mark.s3
def test_a_sweep_on_an_object_store_shows_what_comes_later(sweep_folder: Path, s3_server: Any) -> None:
    uri = storage.join(s3_server.uri, "watched")
    upload(sweep_folder / "trials" / "00000", f"{uri}/trials/00000")
    spec = {"name": "three", "config": "demo", "storage": f"sqlite:///{sweep_folder}/sweep.db"}
    storage.write_bytes(f"{uri}/sweep.yaml", yaml.safe_dump(spec).encode())
    with pages(uri, "storage.attempts=9") as links:
        server, _, number = links["study"].partition("/dashboard/studies/")
        assert answer(f"{server}/api/studies/{number}")["name"] == "three"
        curves = f"{links['curves']}data/plugin/scalars"
        assert runs_in(curves, 1) == ["00000/tensorboard"]
        upload(sweep_folder / "trials" / "00001", f"{uri}/trials/00001")
        assert runs_in(curves, 2) == ["00000/tensorboard", "00001/tensorboard"]


def test_a_port_that_is_taken_is_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) not in (port, 0)
    assert free_port(port) == port


def test_what_is_no_sweep_is_refused_with_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("dashboard_job", ROOT / "jobs/dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    monkeypatch.setenv("DISCOVR_STORAGE", "{}")
    monkeypatch.setattr(sys, "argv", ["dashboard.py", str(tmp_path), "storage.attempts=9"])
    assert job.main() == 2
    assert "no sweep: it has no sweep.yaml" in capsys.readouterr().err
    assert storage.settings().attempts == 9  # it was looked for as the command says
    for wrong, reason in (("data.seed=1", "must be storage.field=value"), ("storage.attempt=9", "mean attempts?")):
        monkeypatch.setattr(sys, "argv", ["dashboard.py", str(tmp_path), wrong])
        assert job.main() == 2
        assert reason in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(sweep_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with (
        pytest.raises(SweepError, match=r"pip install 'discovr-ray\[dashboard\]'"),
        serve_dashboards(str(sweep_folder)),
    ):
        pass
