"""An evaluation -> one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from discovr_ray.evaluate.evaluation import Evaluation
from discovr_ray.report.page import document
from discovr_ray.report.probe_sections import classification, embedding_map, few_labels, regression, summary
from discovr_ray.report.protocol_sections import protocol, provenance
from discovr_ray.report.section import Section, section_html

KNN = (
    "Nothing is fitted: the nearest training videos vote, by cosine similarity. {k} neighbours, temperature "
    "{temperature:g}; one vote a video."
)
ANOMALY = (
    "How far a video is from the normal videos of the training split: mean cosine distance to the {count} nearest. "
    "F1 and balanced accuracy are those at the threshold with the best macro F1 on the validation split."
)
LINEAR = (
    "L2 logistic regression on standardised features, fitted on the training split, its strength C chosen on the "
    "validation split."
)


def evaluation_page(
    evaluation: Evaluation, cases: Sequence[Section], further: Sequence[Section], written_at: str
) -> str:
    """The whole page.

    Args:
        cases: best and worst videos.
        further: sections of whatever else was evaluated, such as segmentation.
    """
    settings = evaluation.settings
    sections = [
        summary(evaluation),
        *classification(
            evaluation, "knn", "Zero-shot kNN", [KNN.format(k=settings.k, temperature=settings.temperature)]
        ),
        *classification(
            evaluation, "anomaly", "Anomaly detection", [ANOMALY.format(count=settings.anomaly_neighbours)]
        ),
        *classification(evaluation, "linear", "Linear probe", [LINEAR]),
        *regression(evaluation),
        *few_labels(evaluation),
        *further,
        embedding_map(evaluation),
        *cases,
        protocol(),
        provenance(evaluation),
    ]
    footer = f"Written {escape(written_at)}. Model {evaluation.subject.model_sha256[:16]}."
    drawn = [section_html(section) for section in sections]
    return document("Evaluation – DISCOVR", _header(evaluation), drawn, footer)


def _header(evaluation: Evaluation) -> str:
    rows, subject = evaluation.questions.rows, evaluation.subject
    classes = evaluation.questions.classes
    normal = "" if classes.normal is None else f" (normal: {classes.names[classes.normal]})"
    items = [
        ("Classes", ", ".join(classes.names) + normal),
        ("Training videos", f"{len(rows.train):,}"),
        ("Validation videos", f"{len(rows.val):,}"),
        ("Test videos", f"{len(rows.test):,}"),
        ("Encoder's steps", f"{subject.step:,}"),
        ("Suite", evaluation.settings.suite),
    ]
    cells = "".join(f"<div><dt>{title}</dt><dd>{escape(text)}</dd></div>" for title, text in items)
    lead = f"What the encoder {subject.encoder} has learnt, asked by {evaluation.settings.classes.name}"
    return f'<h1>Evaluation</h1><p class="lead">{escape(lead)}</p><dl class="facts">{cells}</dl>'
