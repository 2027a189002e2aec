"""CAMUS in NIfTI: half a heart cycle per patient and view, the heart outlined at end-diastole and end-systole.

Layout as published with Leclerc et al., "Deep learning for segmentation using an open large-scale dataset in 2D
echocardiography" (IEEE TMI 2019), NIfTI edition:
    database_nifti/patientNNNN/Info_{2CH,4CH}.cfg                          lines "KEY: VALUE"
    database_nifti/patientNNNN/patientNNNN_{2CH,4CH}_half_sequence.nii.gz  the clip
    database_nifti/patientNNNN/patientNNNN_{2CH,4CH}_{ED,ES}[_gt].nii.gz   one frame of it, and its mask
    database_split/subgroup_{training,validation,testing}.txt              a patient per line
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Note, Rejected, Row, Trace, split_name
from discovr_ray.data.adapters.table_file import Label, Line, as_json, cell_number, numbers
from discovr_ray.errors import ManifestError, StorageError

VIEWS = {"2CH": "A2C", "4CH": "A4C"}
SUBGROUPS = ("training", "validation", "testing")
MASK_VALUES = {"lv": 1, "myocardium": 2, "la": 3}  # structure -> its value
MEASURED = {"EF": "ef", "Age": "age_years"}  # key -> label; EF in percent
WORDS = {"Sex": "sex", "ImageQuality": "image_quality"}
PHASES = {"ED": "ed_frame", "ES": "es_frame"}
READERS = 16  # small files that are read at once
_NAME = re.compile(r"(patient\d+)_(2CH|4CH)_((?:half_sequence|ED|ES)(?:_gt)?)\.nii(?:\.gz)?")
_INFO = re.compile(r"(patient\d+)/Info_(2CH|4CH)\.cfg")

Key = tuple[str, str]  # patient, view as in the file names
Uris = Mapping[str, str]  # such as ED_gt, or info -> file


class Camus(Adapter):
    name = "camus"
    help = "CAMUS: database_nifti/patientNNNN/*_half_sequence.nii.gz, Info_*.cfg, database_split/*.txt"

    def recognises(self, source: str) -> bool:
        return storage.exists(storage.join(source, "database_nifti"))

    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        """The half sequences. Stills are frames of them and masks are traces: neither is rejected for being no clip."""
        folder = storage.join(source, "database_nifti")
        found, rejected = _find_files(folder)
        splits = _splits(storage.join(source, "database_split"))
        infos = _read_infos({key: uris["info"] for key, uris in found.items() if "info" in uris})
        rows: list[Row] = []
        traces: list[Trace] = []
        for (patient, view), uris in found.items():
            try:
                row = _row(patient, view, uris, infos.get((patient, view)), splits.get(patient, set()))
            except ValueError as error:
                name = f"{patient}/{patient}_{view}_half_sequence.nii.gz"
                rejected.append(Rejected(uris.get("half_sequence", storage.join(folder, name)), str(error)))
            else:
                rows.append(row)
                traces += _traces(row, uris)
        missing = sorted(splits.keys() - {patient for patient, _ in found})
        rejected += [
            Rejected(storage.join(folder, patient), "listed in database_split, but has no file") for patient in missing
        ]
        yield from rows
        yield from rejected
        yield from traces
        yield from (Note(text) for text in _notes(rows, traces))


def _find_files(folder: str) -> tuple[dict[Key, dict[str, str]], list[Rejected]]:
    found: dict[Key, dict[str, str]] = defaultdict(dict)
    rejected = []
    for uri in storage.list_files(folder, (".nii", ".nii.gz", ".cfg")):
        path = uri.removeprefix(folder).lstrip("/")
        if info := _INFO.fullmatch(path):
            found[info[1], info[2]]["info"] = uri
        elif name := _NAME.fullmatch(path.rpartition("/")[2]):
            if name[3] in found[name[1], name[2]]:
                rejected.append(Rejected(uri, "another file has the same name"))
            else:
                found[name[1], name[2]][name[3]] = uri
        else:
            rejected.append(Rejected(uri, "no name of a file of CAMUS"))
    if not found:
        raise StorageError(f"{folder}: no file of CAMUS (patientNNNN/patientNNNN_4CH_half_sequence.nii.gz)")
    return found, rejected


def _splits(folder: str) -> dict[str, set[str]]:
    """Patient -> TRAIN, VAL or TEST, more than one where the lists contradict each other."""
    splits: dict[str, set[str]] = defaultdict(set)
    for subgroup in SUBGROUPS:
        uri = storage.join(folder, f"subgroup_{subgroup}.txt")
        if storage.exists(uri):
            for patient in _text(uri).split():
                splits[patient].add(split_name(subgroup))
    return splits


def _read_infos(uris: Mapping[Key, str]) -> dict[Key, Line]:
    """Key -> value of each Info_*.cfg; lines without a colon are none."""
    with ThreadPoolExecutor(READERS) as pool:
        texts = list(pool.map(_text, uris.values()))
    pairs = [[line.split(":", 1) for line in text.splitlines() if ":" in line] for text in texts]
    return {key: {name.strip(): value.strip() for name, value in of} for key, of in zip(uris, pairs, strict=True)}


def _text(uri: str) -> str:
    try:
        return storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{uri}: not a text file in UTF-8: {error}") from error


def _row(patient: str, view: str, uris: Uris, info: Line | None, splits: set[str]) -> Row:
    """A ValueError is the reason for a rejection."""
    if "half_sequence" not in uris:
        raise ValueError("the half sequence is missing")
    if info is None:
        raise ValueError(f"Info_{view}.cfg is missing, and with it the frame rate")
    if len(splits) > 1:
        raise ValueError(f"the patient is in several lists of database_split: {', '.join(sorted(splits))}")
    try:
        fps = cell_number(info, "FrameRate") or 0.0
        labels: dict[str, Label] = numbers(info, MEASURED)
        labels |= {label: info[key] for key, label in WORDS.items() if info.get(key)}
        labels |= {label: frame for key, label in PHASES.items() if (frame := _frame(info, key)) is not None}
    except ValueError as error:
        raise ValueError(f"Info_{view}.cfg: {error}") from None
    split = next(iter(splits), "")
    return Row(f"{patient}_{view}", uris["half_sequence"], patient, split, VIEWS[view], as_json(labels), fps=fps)


def _frame(info: Line, key: str) -> int | None:
    """A frame's number, which CAMUS counts from 1, from 0."""
    number, last = cell_number(info, key), cell_number(info, "NbFrame")
    if number is None:
        return None
    if number != int(number) or number < 1 or (last is not None and number > last):
        raise ValueError(f"{key} = {number:g} is none of frames 1 to {info.get('NbFrame', '?')}")
    return int(number) - 1


def _traces(row: Row, uris: Uris) -> list[Trace]:
    labels = json.loads(row.labels)
    return [
        Trace(row.clip_id, labels[label], structure, mask_uri=uris[f"{phase}_gt"], mask_value=value)
        for phase, label in PHASES.items()
        if label in labels and f"{phase}_gt" in uris
        for structure, value in MASK_VALUES.items()
    ]


def _notes(rows: list[Row], traces: list[Trace]) -> list[str]:
    notes = []
    unlisted = {row.patient_id for row in rows if not row.split}
    if unlisted:
        notes.append(f"patients in no list of database_split: {len(unlisted)}")
    untraced = len(PHASES) * len(rows) - len({trace.mask_uri for trace in traces})
    if untraced:
        notes.append(f"masks that are missing, or whose frame is not in Info_*.cfg: {untraced}")
    return notes
