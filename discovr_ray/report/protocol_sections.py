"""How an evaluation was done, beside what the paper says about it, and from which files its numbers come."""

from __future__ import annotations

import json

from discovr_ray.evaluate.evaluation import Evaluation
from discovr_ray.evaluate.paper import OPEN, REPORTED
from discovr_ray.evaluate.results import to_plain
from discovr_ray.report.probe_text import METRICS, of_paper
from discovr_ray.report.section import Section, Table


def protocol() -> Section:
    """All of the paper's numbers, and what it leaves open."""
    numbers = [
        [item.probe, item.data_set, METRICS[item.metric].title, of_paper(item.value, item.metric), item.about]
        for item in REPORTED
    ]
    tables = [
        Table(["The paper leaves open", "Here"], [list(choice) for choice in OPEN]),
        Table(
            ["Probe", "Data set", "Metric", "Value", "About"],
            numbers,
            frozenset({3}),
            title="The paper's numbers",
            note="Mishra et al., NeurIPS 2025, arXiv 2506.11777. Errors (MAE) are in percent of ejection fraction.",
        ),
    ]
    lead = "Numbers of two protocols can be compared only where both are known."
    return Section("protocol", "The paper's protocol and ours", [lead], tables=tables)


def provenance(evaluation: Evaluation) -> Section:
    """Everything that the numbers follow from."""
    subject, rows = evaluation.subject, evaluation.questions.rows
    counts = {"classification": rows}
    if evaluation.questions.numbers is not None:
        counts["regression"] = evaluation.questions.numbers.rows
    videos = [
        [name, *(f"{count}" for count in found.counts().values()), _left_out(found.left_out)]
        for name, found in counts.items()
    ]
    facts = {**to_plain(subject), **{f"settings.{k}": v for k, v in to_plain(evaluation.settings).items()}}
    facts |= {f"version.{name}": version for name, version in evaluation.versions.items()}
    tables = [
        Table(["Videos", "Train", "Validation", "Test", "In none"], videos, frozenset({1, 2, 3})),
        Table(["Fact", "Value"], [[name, _text(value)] for name, value in facts.items()]),
    ]
    failed = f"{subject.num_failed} videos could not be read and are in no number." if subject.num_failed else ""
    return Section("provenance", "Where the numbers come from", [failed] if failed else [], tables=tables)


def _left_out(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "0"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
