"""Fine-tuning on the page of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from discovr_ray.evaluate.paper import reported
from discovr_ray.evaluate.results import ClassResult, NumberResult
from discovr_ray.report.probe_sections import CLASS_METRICS, NUMBER_METRICS, against_floors
from discovr_ray.report.probe_text import METRICS, of_paper, with_interval
from discovr_ray.report.section import Section, Table

MODELS = {"encoder": "this encoder", "random": "random weights"}


def fine_tuning_section(results: Mapping[str, ClassResult | NumberResult], blocks: int) -> Section:
    """`results`: model -> its result."""
    is_class = isinstance(results["encoder"], ClassResult)
    main, metrics = ("macro_f1", CLASS_METRICS) if is_class else ("mae", NUMBER_METRICS)
    title = "Fine-tuning" if is_class else "Fine-tuned regression"
    finding = against_floors(title, main, {name: of.metrics[main] for name, of in results.items()}, MODELS)
    rows = [
        [MODELS[name], *(with_interval(of.metrics[metric], metric) for metric in metrics), _chosen(of)]
        for name, of in results.items()
    ]
    paper = reported("fine_tuning", main)
    note = (
        f"The paper: {METRICS[main].title} {of_paper(paper.value, main)} on {paper.data_set}, {paper.about}."
        if paper
        else ""
    )
    head = ["Start", *(METRICS[metric].title for metric in metrics), "Chosen on validation"]
    lead = (
        f"The last {blocks} block(s) of the encoder and its last norm learn with a linear layer, on the clip in the "
        "middle of each training video; learning rate and epoch are those that do best on the validation split."
    )
    table = Table(head, rows, frozenset(range(1, len(metrics) + 1)), note=note)
    return Section("fine-tuning", "Fine-tuning", [lead], [finding], [table])


def _chosen(result: ClassResult | NumberResult) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in result.chosen.items())
