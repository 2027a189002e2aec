"""Segmentation on the page of an evaluation: Dice and distances beside the floors and the paper, EF from the masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from discovr_ray.evaluate.bootstrap import Estimate
from discovr_ray.evaluate.paper import REPORTED
from discovr_ray.evaluate.segmentation_scores import EMPTY_MASK, Hearts, SegmentationResult
from discovr_ray.report.probe_sections import NUMBER_METRICS, against_floors
from discovr_ray.report.probe_text import METRICS, of_paper, with_interval
from discovr_ray.report.section import Picture, Section, Table

MODELS = {"encoder": "this encoder", "random": "random weights", "pixels": "pixels of patches", "none": "mean mask"}
STRUCTURES = {"lv": "left ventricle", "myocardium": "myocardium", "la": "left atrium", "mean": "mean of all"}
MAX_NAMED = 30  # videos without an ejection fraction
LEAD = (
    "A linear head on frozen patch tokens, its scores enlarged to the frame. Fitted on the outlined frames of the "
    "training split; weight decay and number of steps chosen on the validation split; numbers are of the test split. "
    "The mean mask is what most training frames have at each pixel: what is known without looking."
)
PICTURES = "Tint: predicted. Yellow line: the expert's outline. Worst frames of the encoder first, then its best ones."
MOVING = (
    "The same head on every moment of the videos with the worst and the best frames, at the heart's own speed; nobody "
    "outlined these frames."
)


class SegmentationPart(NamedTuple):
    """What the sections are about."""

    structures: Sequence[str]
    results: Mapping[str, SegmentationResult]  # model -> its result, floors included
    experts: tuple[Mapping[str, Estimate], Hearts]  # ejection fraction by their own outlines
    counts: Mapping[str, int]  # split -> frames
    remarks: Sequence[str]  # what was left out or failed
    stills: Sequence[Picture]
    moving: Sequence[Picture]


def segmentation_sections(part: SegmentationPart) -> list[Section]:
    """Numbers, then pictures."""
    paper = next(item for item in REPORTED if item.probe == "segmentation")
    main = part.structures[0] if len(part.structures) == 1 else "mean"
    names = {model: MODELS[model] for model in part.results}
    finding = against_floors(
        "Segmentation", "dice", {model: of.metrics[main]["dice"] for model, of in part.results.items()}, names
    )
    frames = ", ".join(f"{split} {count}" for split, count in part.counts.items())
    tables = [
        _mask_table(part, f"The paper: Dice {of_paper(paper.value, 'dice')} % on {paper.data_set}, {paper.about}.")
    ]
    paragraphs = [LEAD, f"Outlined frames: {frames}.", *part.remarks]
    if any(of.num_hearts or EMPTY_MASK in of.no_ejection_fraction for of in part.results.values()):
        tables.append(_ef_table(part))
    else:
        paragraphs += [f"No ejection fraction from masks: {text}." for text in _lost(part.experts[1].left_out)]
    sections = [Section("segmentation", "Segmentation", paragraphs, [finding], tables)]
    if part.stills:
        sections.append(Section("segmentation-frames", "Masks: worst and best", [PICTURES], pictures=part.stills))
    if part.moving:
        sections.append(Section("segmentation-videos", "Masks, moving", [MOVING], pictures=part.moving))
    return sections


def not_asked(slug: str, title: str, reason: str) -> Section:
    return Section(slug, title, [f"Not asked: {reason}."])


def _mask_table(part: SegmentationPart, paper: str) -> Table:
    rows = [
        [
            STRUCTURES.get(structure, structure),
            METRICS[metric].title,
            *(with_interval(result.metrics[structure][metric], metric) for result in part.results.values()),
        ]
        for structure in next(iter(part.results.values())).metrics
        for metric in ("dice", "hd95")
    ]
    nothing = [
        f"{MODELS[model]} predicts no {STRUCTURES.get(name, name)} in {count} frame(s)"
        for model, result in part.results.items()
        for name, count in result.nothing_predicted.items()
        if count
    ]
    note = "In brackets 95 % intervals over test patients; pixels are those of the encoder's frames. " + paper
    if nothing:
        note += f" Where nothing is predicted the distance is the frame's diagonal: {'; '.join(nothing)}."
    head = ["Structure", "Metric", *(MODELS[model] for model in part.results)]
    return Table(head, rows, frozenset(range(2, 2 + len(part.results))), note=note)


def _ef_table(part: SegmentationPart) -> Table:
    rows = [
        [MODELS[model], f"{result.num_hearts}", *_cells(result.ejection_fraction)]
        for model, result in part.results.items()
    ]
    metrics, experts = part.experts
    rows.append(["the experts' outlines", f"{len(experts.clip_ids)}", *_cells(metrics)])
    notes = [f"Without one by anybody's masks: {text}" for text in _lost(experts.left_out)]
    for model, result in part.results.items():
        own = {reason: ids for reason, ids in result.no_ejection_fraction.items() if reason == EMPTY_MASK}
        notes += [f"Without one by {MODELS[model]}: {text}" for text in _lost(own)]
    note = (
        "Against the label, percent, by the single-plane area-length rule from two outlined frames of a video. The "
        "last row is what the rule itself can reach; where it is far from the label, the label comes from elsewhere."
    )
    head = ["Masks of", "Videos", *(METRICS[metric].title for metric in NUMBER_METRICS)]
    return Table(
        head,
        rows,
        frozenset(range(1, 5)),
        "Ejection fraction from the masks",
        " ".join([note, *(f"{n}." for n in notes)]),
    )


def _lost(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Such as: 2 videos, a mask is empty (a, b)."""
    found = []
    for reason, ids in left_out.items():
        more = f" and {len(ids) - MAX_NAMED} more, in results.json" if len(ids) > MAX_NAMED else ""
        found.append(f"{len(ids)} video{'s' * (len(ids) != 1)}, {reason} ({', '.join(ids[:MAX_NAMED])}{more})")
    return found


def _cells(found: Mapping[str, Estimate]) -> list[str]:
    return [with_interval(found[metric], metric) if metric in found else "–" for metric in NUMBER_METRICS]
