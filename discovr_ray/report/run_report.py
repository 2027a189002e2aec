"""The page of a run: report.html in its folder, one file that opens anywhere, without a network."""

from __future__ import annotations

from datetime import UTC, datetime

from discovr_ray.data import storage
from discovr_ray.report.clips import draw_clips
from discovr_ray.report.page import page
from discovr_ray.report.run_files import RunFiles, read_run

REPORT_FILE = "report.html"


def write_report(run_uri: str) -> str:
    """Read what a run has written so far and (re)write its page; returns the page's URI.

    Errors:
        StorageError: the run folder cannot be read or written.
    """
    run = read_run(run_uri)
    clips = draw_clips(run.samples, _frame_ms(run)) if run.samples is not None else []
    written_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    uri = storage.join(run.uri, REPORT_FILE)
    storage.write_bytes(uri, page(run, clips, written_at).encode())
    return uri


def _frame_ms(run: RunFiles) -> int:
    """How long a taken frame lasts in the original, so that hearts beat at their own speed."""
    data = run.config.get("data", {})
    return int(1000 * data.get("frame_stride", 3) / (data.get("reference_fps") or 50))
