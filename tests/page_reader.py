"""Pages as a reader sees them: text, tags and figures of the file, and what Chromium makes of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CHROMIUM = shutil.which("chromium")
_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--virtual-time-budget=10000",
)


class Page(HTMLParser):
    """Text, tags and the JSON of the figures."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.source = Path(path).read_text()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: dict[str, dict] = {}
        self._inside = ("", "")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self._inside = (tag, values.get("data-target") or "")

    def handle_data(self, data: str) -> None:
        tag, target = self._inside
        if target:
            self.figures[target.removeprefix("plot-")] = json.loads(data)
        elif tag not in ("script", "style"):
            self.text += data + "\n"

    def handle_endtag(self, tag: str) -> None:
        self._inside = ("", "")


def drawn_page(path: str, folder: Path) -> str:
    """The document at a path or URL after its scripts ran; `folder` takes the browser's files."""
    return _run(folder, 3000, "--dump-dom", path).stdout


def screenshot(path: str, folder: Path, height: int) -> npt.NDArray[np.int64]:
    """RGB [height, 1280, 3]."""
    shot = folder / "page.png"
    _run(folder, height, f"--screenshot={shot}", path)
    return np.asarray(Image.open(shot).convert("RGB"), np.int64)


def _run(folder: Path, height: int, action: str, path: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), *_QUIET, f"--user-data-dir={folder / 'profile'}", f"--window-size=1280,{height}"]
    command += [action, path if "://" in path else f"file://{path}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
