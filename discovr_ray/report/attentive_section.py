"""The attentive probe on the page of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from discovr_ray.evaluate.results import ClassResult, NumberResult
from discovr_ray.report.probe_sections import CLASS_METRICS, NUMBER_METRICS, against_floors
from discovr_ray.report.probe_text import METRICS, with_interval
from discovr_ray.report.section import Section, Table

MODELS = {"encoder": "this encoder", "random": "random weights", "pixels": "pixels of patches"}
MAIN = {
    "class": ("Attentive probe", "macro_f1", CLASS_METRICS),
    "number": ("Attentive regression", "mae", NUMBER_METRICS),
}
LEAD = (
    "One learned query attends to the frozen patch tokens of the clip in the middle of each video, and a linear layer "
    "answers. Fitted on the training split; weight decay, number of steps and whether the query knows places are "
    "chosen on the validation split."
)


def attentive_section(results: Mapping[str, Mapping[str, ClassResult | NumberResult]], num_failed: int) -> Section:
    """`results`: "class" or "number" -> model -> its result."""
    findings, tables = [], []
    for about, of in results.items():
        title, main, metrics = MAIN[about]
        findings.append(against_floors(title, main, {name: found.metrics[main] for name, found in of.items()}, MODELS))
        rows = [
            [MODELS[name], *(with_interval(found.metrics[metric], metric) for metric in metrics), _chosen(found)]
            for name, found in of.items()
        ]
        head = ["Tokens", *(METRICS[metric].title for metric in metrics), "Chosen on validation"]
        tables.append(Table(head, rows, frozenset(range(1, len(metrics) + 1)), title=title))
    failed = [f"Without tokens, and in no number here: {num_failed} videos."] if num_failed else []
    return Section("attentive", "Attentive probe", [LEAD, *failed], findings, tables)


def _chosen(result: ClassResult | NumberResult) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in result.chosen.items())
