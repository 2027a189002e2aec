"""The page of a sweep: report.html in its folder, a file that opens anywhere, with the best configuration beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from discovr_ray.data import storage
from discovr_ray.report import sweep_sections
from discovr_ray.report.page import document
from discovr_ray.report.section import section_html
from discovr_ray.report.sweep_best import BestConfig, write_best
from discovr_ray.report.sweep_files import read_sweep
from discovr_ray.report.sweep_trials import OUTCOMES, WORDS, SweepResults
from discovr_ray.sweep.folder import REPORT_FILE


def write_sweep_report(folder: str, database: str = "") -> str:
    """Read what a sweep has done so far and (re)write its page and best.yaml; returns the page's URI.

    Args:
        folder: <storage_path>/<name> of the sweep.
        database: URL of the study; "": what sweep.yaml says, or the folder's own sweep.db.
    Errors:
        SweepError: the folder holds no sweep, or its study cannot be read. ConfigError: the best trial's
        configuration is not one of this version. StorageError: the folder cannot be read or written.
    """
    sweep = read_sweep(folder, database)
    best = write_best(sweep)
    uri = storage.join(sweep.uri, REPORT_FILE)
    storage.write_bytes(uri, sweep_page(sweep, best, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")).encode())
    return uri


def sweep_page(sweep: SweepResults, best: list[BestConfig], written_at: str) -> str:
    """The whole page; `written_at` is shown in the footer."""
    sections = [
        sweep_sections.outcome(sweep, best),
        sweep_sections.progress(sweep),
        sweep_sections.importance(sweep),
        sweep_sections.relations(sweep),
        sweep_sections.pairs(sweep),
        sweep_sections.all_trials(sweep),
    ]
    footer = f"Written {escape(written_at)} from the study and the runs in <code>{escape(sweep.uri)}</code>."
    drawn = [section_html(section) for section in sections]
    return document(f"{sweep.name} – DISCOVR sweep", _header(sweep), drawn, footer)


def _header(sweep: SweepResults) -> str:
    goals = ", ".join(f"{'highest' if goal.maximise else 'lowest'} {goal.name}" for goal in sweep.objectives)
    facts = [("Trials", str(len(sweep.trials)))]
    facts += [(WORDS[kind].capitalize(), str(len(sweep.of(kind)))) for kind in OUTCOMES if sweep.of(kind)]
    facts.append(("Fields", str(len(sweep.fields))))
    if sweep.rungs:
        facts.append(("Steps of a whole trial", f"{sweep.rungs[-1]:,}"))
    items = "".join(f"<div><dt>{title}</dt><dd>{escape(text)}</dd></div>" for title, text in facts)
    lead = f"DISCOVR sweep for the {goals}"
    return f'<h1>{escape(sweep.name)}</h1><p class="lead">{escape(lead)}</p><dl class="facts">{items}</dl>'
