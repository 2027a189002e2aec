"""Manifest -> the page about its data, and the numbers on it."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from discovr_ray.config import DataConfig
from discovr_ray.data import storage
from discovr_ray.data.manifest import fingerprint, read_manifest
from discovr_ray.errors import ManifestError
from discovr_ray.report.data_facts import DataFacts, read_facts, read_rejected
from discovr_ray.report.data_findings import findings
from discovr_ray.report.data_labels import values_of
from discovr_ray.report.data_page import data_page
from discovr_ray.report.data_samples import Looked, look
from discovr_ray.report.health import Finding

logger = logging.getLogger(__name__)

DEFAULT_SAMPLE = 200


class DataReport(NamedTuple):
    facts: DataFacts
    looked: Looked
    findings: list[Finding]
    identity: str  # of the manifest, without its place


def inspect_data(
    manifest_uri: str, data: DataConfig, sample: int = DEFAULT_SAMPLE, class_label: str = ""
) -> DataReport:
    """Read all rows, open `sample` clips and those that are shown.

    Args:
        data: its window says how long a clip should be.
        class_label: label whose values share out the clips that are shown; "": the most common one with few values.
    Errors:
        ManifestError: no manifest, no row, or no label of that name. StorageError: the storage did not answer.
    """
    table = read_manifest(manifest_uri)
    if not table.num_rows:
        raise ManifestError(f"{manifest_uri}: the manifest has no clip")
    logger.info("counting %d clips", table.num_rows)
    facts = read_facts(table, data, read_rejected(manifest_uri))
    if class_label and class_label not in facts.classes:
        raise ManifestError(
            f"class label {class_label!r}: no label with few values; there are: {', '.join(facts.classes) or 'none'}"
        )
    label = class_label or _main_class(facts)
    values = values_of(table["labels"].to_pylist(), label)
    classes = [f"{label} {value}" if value else "" for value in values]
    logger.info("opening clips")
    looked = look(table, classes, min(sample, table.num_rows))
    identity = f"{table.num_rows:,} clips, fingerprint {fingerprint(table)[:16]}"
    return DataReport(facts, looked, findings(facts, looked), identity)


def write_page(report: DataReport, uri: str) -> str:
    """Returns the page's absolute URI.

    Errors:
        StorageError: the place cannot be written to.
    """
    written_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    uri = storage.absolute(uri)
    page = data_page(report.facts, report.looked, report.findings, report.identity, written_at)
    storage.write_bytes(uri, page.encode())
    return uri


def numbers(report: DataReport) -> dict[str, Any]:
    """What is on the page, as plain values for JSON; pictures left out."""
    looked = asdict(replace(report.looked, pictures=[]))
    del looked["pictures"]
    return {"facts": asdict(report.facts), "looked": looked, "findings": [item._asdict() for item in report.findings]}


def _main_class(facts: DataFacts) -> str:
    """The label that most clips have, of several values; of equals the one with the fewest."""

    def rank(label: str) -> tuple[int, int, str]:
        values = facts.classes[label]
        return -sum(sum(counts.values()) for counts in values.values()), len(values), label

    return min((label for label, values in facts.classes.items() if len(values) > 1), key=rank, default="")
