"""The probes of an evaluation as sections of its page; the encoder's numbers stand beside those of the floors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from discovr_ray.evaluate.bootstrap import Estimate
from discovr_ray.evaluate.evaluation import NO_FEATURES, Evaluation
from discovr_ray.evaluate.paper import reported
from discovr_ray.evaluate.results import ClassResult, FewResult, NumberResult
from discovr_ray.report.curves import Chart
from discovr_ray.report.health import Finding, Level
from discovr_ray.report.probe_charts import (
    MODELS,
    agreement_figure,
    class_map_figure,
    confusion_figure,
    few_figure,
    map_figure,
    roc_figure,
    scatter_figure,
)
from discovr_ray.report.probe_text import METRICS, is_better, is_clearly_better, number, of_paper, with_interval
from discovr_ray.report.section import Section, Table

CLASS_METRICS = ("macro_f1", "balanced_accuracy", "auroc", "average_precision")
NUMBER_METRICS = ("mae", "rmse", "r2")
# probe, title, the metric that says most
MAIN = (
    ("knn", "Zero-shot kNN", "balanced_accuracy"),
    ("anomaly", "Anomaly detection", "auroc"),
    ("linear", "Linear probe", "macro_f1"),
    ("ridge", "Regression", "r2"),
)


def summary(evaluation: Evaluation) -> Section:
    """Whether the encoder is better than what has learnt nothing, and its main numbers beside the paper's."""
    findings = [
        against_floors(title, main, {model: result.metrics[main] for model, result in found.items()})
        for probe, title, main in MAIN
        if (found := _results_of(evaluation, probe))
    ]
    order: list[Level] = ["bad", "watch", "good"]
    findings.sort(key=lambda item: order.index(item.level))
    skipped = [f"Not asked: {probe}, because {reason}." for probe, reason in evaluation.questions.skipped.items()]
    lead = "Test split. What the encoder has learnt is what it is better at than random weights and plain pixels."
    return Section("summary", "What it has learnt", [lead, *skipped], findings, [main_table(evaluation)])


def main_table(evaluation: Evaluation) -> Table:
    """Every metric of the main probes, of all models, beside the paper's."""
    rows = []
    for probe, title, _ in MAIN:
        found = _results_of(evaluation, probe)
        for metric in _metrics_of(probe) if found else ():
            paper = reported(probe, metric)
            cells = [with_interval(found[model].metrics[metric], metric) for model in MODELS]
            rows.append([title, METRICS[metric].title, *cells, of_paper(paper.value, metric) if paper else ""])
    return Table(
        ["Probe", "Metric", *MODELS.values(), "paper, EchoNet-Dynamic"],
        rows,
        numbers=frozenset({2, 3, 4, 5}),
        note="In brackets 95 % intervals over test patients. The paper's numbers can be compared only where the "
        "manifest is that data set, with its own splits and the paper's classes.",
    )


def _results_of(evaluation: Evaluation, probe: str) -> Mapping[str, ClassResult | NumberResult]:
    return {**evaluation.of(probe, ClassResult), **evaluation.of(probe, NumberResult)}


def classification(evaluation: Evaluation, probe: str, title: str, paragraphs: Sequence[str]) -> list[Section]:
    """No section where the probe was not asked."""
    found = evaluation.of(probe, ClassResult)
    if not found:
        return []
    charts = [
        Chart(f"{probe}-roc", "ROC", _roc_note(found["encoder"]), roc_figure(found)),
        *(
            Chart(f"{probe}-confusion-{model}", f"Confusion, {MODELS[model]}", "Videos.", confusion_figure(result))
            for model, result in found.items()
        ),
    ]
    return [Section(probe, title, paragraphs, (), [_metric_table(found, CLASS_METRICS)], charts)]


def regression(evaluation: Evaluation) -> list[Section]:
    """The regression with both heads, its errors by range and its agreement."""
    found = evaluation.of("ridge", NumberResult)
    if not found:
        return []
    name, unit = _number_name(evaluation), _unit(evaluation)
    encoder = found["encoder"]
    heads = {"ridge": found, "small MLP": evaluation.of("mlp", NumberResult)}
    rows = [
        [MODELS[model], head, *(with_interval(result.metrics[metric], metric) for metric in NUMBER_METRICS)]
        for head, results in heads.items()
        for model, result in results.items()
    ]
    mean = evaluation.of("mean", NumberResult)[NO_FEATURES]
    rows.append(["training mean", "none", *(with_interval(mean.metrics[metric], metric) for metric in NUMBER_METRICS)])
    titles = [METRICS[metric].title for metric in NUMBER_METRICS]
    redrawn = f"Draws of patients that were all alike and were drawn again: {mean.redrawn}." if mean.redrawn else ""
    paragraphs = [
        f"{name} of the test videos, {unit}. The last row guesses the mean of the training split for everybody. "
        f"Chosen on the validation split: {_chosen(encoder)}."
    ]
    tables = [
        Table(["Features", "Head", *titles], rows, frozenset({2, 3, 4}), note=redrawn),
        _range_table(encoder, unit),
        _agreement_table(found, unit),
    ]
    charts = [
        Chart("regression-scatter", "Predicted and true", "Ridge; one point a video.", scatter_figure(encoder, unit)),
        Chart(
            "regression-agreement",
            "Bland-Altman",
            "Bias and 95 % limits of agreement, dashed.",
            agreement_figure(encoder, unit),
        ),
    ]
    return [Section("regression", f"{name} from frozen features", paragraphs, (), tables, charts)]


def few_labels(evaluation: Evaluation) -> list[Section]:
    """How the probes grow with the labelled patients."""
    charts, tables = [], []
    for probe, metric, title in (
        ("few_labels", "macro_f1", "Linear probe"),
        ("few_labels_number", "mae", f"{_number_name(evaluation)}, ridge"),
    ):
        found = evaluation.of(probe, FewResult)
        if not found:
            continue
        shown = METRICS[metric]
        note = f"Mean over draws of patients; {', '.join(found['encoder'].notes)}."
        charts.append(Chart(probe, title, note, few_figure(found, metric, shown.scale, shown.title)))
        rows = [
            [
                f"{point.share:.0%}",
                f"{point.num_patients:.0f}",
                f"{point.num_videos:.0f}",
                *(with_interval(found[model].points[place].metrics[metric], metric) for model in MODELS),
            ]
            for place, point in enumerate(found["encoder"].points)
        ]
        head = ["Share", "Patients", "Videos", *MODELS.values()]
        tables.append(Table(head, rows, frozenset(range(1, 6)), title=f"{title}: {shown.title}"))
    if not charts:
        return []
    lead = (
        f"Shares of the training patients, {evaluation.settings.few_label_seeds} draws each; a share is part of the "
        "next larger one. Intervals are those of the mean over draws, over test patients. The validation split, which "
        "chooses the regularisation, stays whole."
    )
    return [Section("few-labels", "With few labels", [lead], (), tables, charts)]


def embedding_map(evaluation: Evaluation) -> Section:
    """Test videos on a map, coloured by the number where there is one, and by class."""
    rows, places = evaluation.place_rows, evaluation.places
    questions = evaluation.questions
    names = [questions.videos.clip_ids[row] for row in rows]
    charts = []
    if questions.numbers is not None:
        known = np.isfinite(questions.numbers.values[rows])
        values = questions.numbers.values[rows][known].tolist()
        kept = [name for name, there in zip(names, known, strict=True) if there]
        figure = map_figure(places[known], kept, values, _number_name(evaluation))
        charts.append(Chart("map-number", f"By {_number_name(evaluation)}", "One point a test video.", figure))
    codes = questions.classes.codes[rows].tolist()
    figure = class_map_figure(places, names, codes, questions.classes.names)
    charts.append(Chart("map-class", f"By {evaluation.settings.classes.name}", "One point a test video.", figure))
    lead = (
        f"{len(rows)} of {len(questions.rows.test)} test videos, by t-SNE of the encoder's features (principal "
        "components where there are fewer than ten). Neighbours are alike to the encoder; distances between groups "
        "mean nothing."
    )
    return Section("map", "Map of the embeddings", [lead], charts=charts)


def against_floors(
    title: str, metric: str, found: Mapping[str, Estimate], names: Mapping[str, str] = MODELS
) -> Finding:
    """Whether the encoder is better than what has learnt nothing. `names`: of the models, floors included."""
    ours = found["encoder"]
    floors = {name: found[model] for model, name in names.items() if model != "encoder"}
    shown = METRICS[metric]
    value = f"{shown.title.removesuffix(', %')} {number(ours.value, metric)}"
    scale = "; ".join(f"{name} {with_interval(item, metric)}" for name, item in floors.items())
    unclear = [name for name, item in floors.items() if not is_clearly_better(ours, item, metric)]
    worse = [name for name, item in floors.items() if not is_better(ours, item, metric)]
    if worse:
        return Finding("bad", title, value, scale, f"Not better than {' and '.join(worse)}.")
    if unclear:
        return Finding("watch", title, value, scale, f"Better, but intervals overlap with {' and '.join(unclear)}.")
    return Finding("good", title, value, scale, "Better than the floors; the intervals do not overlap.")


def _metric_table(found: Mapping[str, ClassResult], metrics: Sequence[str]) -> Table:
    rows = [
        [MODELS[model], *(with_interval(result.metrics[metric], metric) for metric in metrics), _chosen(result)]
        for model, result in found.items()
    ]
    notes = [f"{MODELS[model]}: {note}" for model, result in found.items() for note in result.notes]
    redrawn = max(result.redrawn for result in found.values())
    if redrawn:
        notes.append(f"draws of patients that lacked a class and were drawn again: {redrawn}")
    head = ["Features", *(METRICS[metric].title for metric in metrics), "Chosen on validation"]
    return Table(head, rows, frozenset(range(1, len(metrics) + 1)), note="; ".join(notes) + "." if notes else "")


def _metrics_of(probe: str) -> tuple[str, ...]:
    return NUMBER_METRICS if probe == "ridge" else CLASS_METRICS


def _chosen(result: ClassResult | NumberResult) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in result.chosen.items()) or "nothing"


def _roc_note(result: ClassResult) -> str:
    if len(result.classes) == 2:
        return f"Class {result.classes[1]} against {result.classes[0]}; one line for each set of features."
    return "This encoder; each class against the rest."


def _range_table(result: NumberResult, unit: str) -> Table:
    rows = [
        [_range_name(item.low, item.high), f"{item.num_videos}", _signed(item.bias), _plain(item.mae)]
        for item in result.ranges
    ]
    note = (
        "A probe that has learnt little guesses the middle: positive bias in the low ranges, negative in the high ones."
    )
    head = [f"True {unit}", "Videos", "Bias", "MAE"]
    return Table(head, rows, frozenset({1, 2, 3}), "Bias by range, this encoder, ridge", note)


def _range_name(low: float, high: float) -> str:
    if math.isinf(low):
        return f"below {high:g}"
    return f"{low:g} and more" if math.isinf(high) else f"{low:g} to {high:g}"


def _agreement_table(found: Mapping[str, NumberResult], unit: str) -> Table:
    rows = [
        [
            MODELS[model],
            *(_signed(value) for value in (result.agreement.bias, result.agreement.low, result.agreement.high)),
            _signed(result.agreement.slope),
        ]
        for model, result in found.items()
    ]
    head = ["Features", "Bias", "Lower limit", "Upper limit", "Slope"]
    note = (
        "Each video counts once. Slope: of the difference over the mean of both; below 0 extremes are pulled inwards."
    )
    return Table(head, rows, frozenset({1, 2, 3, 4}), f"Bland-Altman, ridge, {unit}", note)


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _plain(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _number_name(evaluation: Evaluation) -> str:
    numbers = evaluation.questions.numbers
    if numbers is None:
        return "Number"
    return "Ejection fraction" if numbers.name.lower() in ("ef", "lvef") else numbers.name


def _unit(evaluation: Evaluation) -> str:
    return "EF, %" if _number_name(evaluation) == "Ejection fraction" else _number_name(evaluation)
