"""What a DICOM file says beyond its frames, under the policy: ids as keyed hashes, view, labels, region and sector."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from discovr_ray.data.formats.dicom.attributes import (
    ALLOWED,
    items_of,
    keyed_hash,
    number,
    parse,
    text_of,
)
from discovr_ray.data.formats.dicom.cine import Cine, read_cine
from discovr_ray.data.formats.dicom.pixels import colour_frame, grey_frame
from discovr_ray.data.formats.dicom.regions import COLOUR_DOPPLER, Box, Region, choose_region
from discovr_ray.data.formats.dicom.sector import find_sector, sample_indices
from discovr_ray.data.formats.dicom.timing import read_timing
from discovr_ray.data.formats.policy import NO_KEY, IngestPolicy
from discovr_ray.data.formats.reader import Details
from discovr_ray.errors import ClipError

# (coding scheme, code) of ViewCodeSequence -> view; DICOM PS3.16, CID 12226 and the older codes of the same concepts
VIEWS = {
    ("SCT", "399214001"): "A4C",
    ("SRT", "G-A19C"): "A4C",
    ("DCM", "130681"): "A4C",  # focused on the right ventricle
    ("DCM", "130682"): "A4C",
    ("SCT", "399232001"): "A2C",
    ("SRT", "G-A19B"): "A2C",
    ("SCT", "399339008"): "A3C",
    ("SRT", "G-0395"): "A3C",
    ("SCT", "399139001"): "PLAX",
    ("SRT", "G-0396"): "PLAX",
    ("SCT", "399306005"): "PSAX",
    ("SRT", "G-0397"): "PSAX",
    ("SCT", "399239005"): "PSAX",  # aortic valve
    ("SRT", "G-0398"): "PSAX",
    ("SCT", "399371001"): "PSAX",  # mitral chords
    ("SRT", "G-0399"): "PSAX",
    ("SCT", "399036006"): "PSAX",  # mitral valve
    ("SRT", "G-039A"): "PSAX",
    ("SCT", "399271003"): "PSAX",  # papillary muscles
    ("SRT", "G-039B"): "PSAX",
}
VENDORS = (
    *("GE", "Philips", "Siemens", "Canon", "Toshiba", "Samsung", "Medison", "Mindray", "Esaote", "Fujifilm"),
    *("Hitachi", "Aloka", "Acuson", "Sonosite", "Hewlett-Packard"),
)
HEART_RATES = (20, 300)  # beats per minute; others are no heart rates
COLOUR_SAMPLES = 8  # frames
COLOURFUL = 60  # largest minus smallest of R, G and B; tinted grey maps stay below
COLOURFUL_SHARE = 0.005  # of the picture, beyond what is as colourful in every sample (logos, scales)


def read_details(data: bytes, policy: IngestPolicy) -> Details:
    """Errors: ClipError, no 2-D ultrasound clip, refused by the policy, or text that cannot be masked."""
    cine, values = read_cine(data), parse(data, ALLOWED).values
    if text_of(values, "Modality") not in ("US", ""):
        raise ClipError("Modality is not US")
    region = choose_region(values, cine.height, cine.width, policy)
    box = region.box if region else (0, 0, cine.width, cine.height)
    burned_in = text_of(values, "BurnedInAnnotation")
    if policy.burned_in == "drop" and burned_in == "YES":
        raise ClipError("BurnedInAnnotation is YES (--burned-in mask takes such clips and masks the text)")
    if policy.color == "drop" and is_colour_doppler(cine, box):
        raise ClipError(COLOUR_DOPPLER)
    sector = _sector(cine, box)
    if sector is None and policy.burned_in != "keep":
        _check_unmasked(burned_in, region)
    ids = _ids(values, policy.id_key)
    return Details(
        **ids,
        view=_view(values),
        labels=json.dumps(_labels(values, cine, policy.id_key), sort_keys=True),
        region=region.box if region else _bounds(sector),
        sector=sector,
        cm_per_pixel=region.cm_per_pixel if region else None,
    )


def _check_unmasked(burned_in: str, region: Region | None) -> None:
    """Whether a picture may be taken whole. Errors: ClipError, it may not."""
    no_mask, way_out = "no sector smaller than the picture to be found", "(--burned-in keep takes such clips)"
    if burned_in != "NO":
        rule = "so burned-in text cannot be masked, and BurnedInAnnotation is not NO"
        raise ClipError(f"{no_mask}, {rule} {way_out}")
    if region and region.overlaid:
        rule = "so what a region of another kind (an ECG) shows within the 2-D picture cannot be masked"
        raise ClipError(f"{no_mask}, {rule} {way_out}")


def is_colour_doppler(cine: Cine, box: Box) -> bool:
    """Whether colours come and go in the picture; colours that stay are logos and scales."""
    x0, y0, x1, y1 = box
    colourful = []
    for index in np.linspace(0, cine.num_frames - 1, min(cine.num_frames, COLOUR_SAMPLES)).round().astype(int).tolist():
        frame = colour_frame(cine, index)
        if frame is None:
            return False
        part = frame[y0:y1, x0:x1]
        colourful.append(part.max(-1) - part.min(-1) > COLOURFUL)
    always = np.logical_and.reduce(colourful)
    return bool(max((mask & ~always).mean() for mask in colourful) > COLOURFUL_SHARE)


def _sector(cine: Cine, box: Box) -> tuple[int, ...] | None:
    """In pixels of the whole frame."""
    x0, y0, x1, y1 = box
    indices = sample_indices(cine.num_frames)
    samples = np.empty((len(indices), y1 - y0, x1 - x0), np.uint8)
    for place, index in zip(samples, indices, strict=True):
        place[:] = grey_frame(cine, index)[y0:y1, x0:x1]
    found = find_sector(samples)
    return None if found is None else tuple(value + (y0 if place % 2 else x0) for place, value in enumerate(found))


def _bounds(sector: tuple[int, ...] | None) -> Box | None:
    if sector is None:
        return None
    return min(sector[::2]), min(sector[1::2]), max(sector[::2]) + 1, max(sector[1::2]) + 1


def _ids(values: Any, key: str) -> dict[str, str]:
    """clip_id and patient_id, or why one is not there; a guess would put one patient into two splits."""
    if not key:
        return {"anonymous": NO_KEY}
    wanted = {"PatientID": ("patient_id", "patient"), "SOPInstanceUID": ("clip_id", "clip")}
    texts = {keyword: text_of(values, keyword) for keyword in wanted}
    ids = {name: keyed_hash(key, kind, texts[keyword]) for keyword, (name, kind) in wanted.items() if texts[keyword]}
    if missing := [keyword for keyword, text in texts.items() if not text]:
        ids["anonymous"] = f"{' and '.join(missing)} missing: neither is guessed from the file's name"
    return ids


def _labels(values: Any, cine: Cine, key: str) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    if key and (study := text_of(values, "StudyInstanceUID")):
        labels["study"] = keyed_hash(key, "study", study)
    if read_timing(values, cine.num_frames).varies:
        labels["frame_time_varies"] = 1
    heart_rate = number(values, "HeartRate") or 0.0
    if HEART_RATES[0] <= heart_rate <= HEART_RATES[1]:
        labels["heart_rate_bpm"] = round(heart_rate)
    words = re.split(r"[^A-Z-]+", text_of(values, "Manufacturer").upper())
    if vendor := next((name for name in VENDORS if name.upper() in words), ""):
        labels["vendor"] = vendor
    return labels


def _view(values: Any) -> str:
    """The first known view code; other codes, and what is written beside them, say nothing."""
    codes = [
        (text_of(item, "CodingSchemeDesignator"), text_of(item, "CodeValue"))
        for item in items_of(values, "ViewCodeSequence")
    ]
    return next((VIEWS[code] for code in codes if code in VIEWS), "")
