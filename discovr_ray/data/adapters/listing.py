"""What an adapter is: told where a data set lies and what the user chose, it lists the clips without opening them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from discovr_ray.data.formats.dicom.attributes import keyed_hash

Folds = tuple[Sequence[int], Sequence[int], Sequence[int]]


class Row(NamedTuple):
    """A manifest row before the file has been looked at."""

    clip_id: str  # unique within a listing
    uri: str
    patient_id: str  # "" when the source says nothing: the file's own word counts, else the file is a patient
    split: str  # TRAIN, VAL or TEST, see `split_name`; "" when the source says nothing
    view: str  # "" when the source says nothing
    labels: str  # a JSON object
    fps: float = 0.0  # frames per second, for files that do not say; 0: the source does not say either
    names_clip: bool = True  # False: clip_id is but the file's path, and the file's own word counts more
    names_patient: bool = True  # the same of patient_id


class Rejected(NamedTuple):
    uri: str
    reason: str


class Trace(NamedTuple):
    """One structure in one frame: a closed polygon in pixels of the source, or a mask file with a value in it.

    The polygon has no repeated last point; pixel centres are whole numbers. It is empty where `mask_uri` is set.
    """

    clip_id: str  # of the listing's row
    frame: int  # of the source video, from 0
    structure: str  # such as lv
    x: Sequence[float] = ()
    y: Sequence[float] = ()
    mask_uri: str = ""  # same size as the frame
    mask_value: int = 0  # the structure's value in the mask


class Note(NamedTuple):
    """A rule that was applied, or how many files are in no table: a line for the summary."""

    text: str


Found = Row | Rejected | Trace | Note  # what an adapter finds, one after the other: there may be millions


@dataclass(frozen=True)
class AdapterOptions:
    """What a user may choose about the sources; an adapter takes what concerns it, ingest does the rest."""

    adapter: str = ""  # the adapter's name; "": the one that recognises the source
    patient_pattern: str = ""  # folder: a regular expression whose first group, found in the path, is the patient
    without_suffix: bool = False  # folder: files without a suffix are taken, too (DICOM archives)
    columns: Mapping[str, str] = field(default_factory=dict)  # table: field of the manifest -> column of the table
    fps: float = 0.0  # all: frames per second, where neither file nor data set says it; 0: such files are rejected
    folds: Folds = (range(7), range(7, 8), range(8, 10))  # whole numbers that stand for TRAIN, VAL and TEST
    measurements: tuple[str, ...] = ()  # MIMIC-IV-Echo: structured measurements that become labels
    views: tuple[str, ...] = ()  # all: only clips of these views; (): all clips
    thresholds: Mapping[str, float] = field(default_factory=dict)  # all: label -> low_<label> is 1 below this, else 0
    id_key: str = field(default="", repr=False)  # as IngestPolicy.id_key, which ingest puts here

    def private_id(self, patient: str) -> str:
        """A patient's id from a user's own tables or paths: hashed with the key, where there is one.

        The hash is that of a DICOM file's PatientID, so that both name the same patient.
        """
        return keyed_hash(self.id_key, "patient", patient) if self.id_key and patient else patient

    def split_of(self, text: str) -> str:
        """A cell that holds a split's name or the number of a fold; other words in capitals, for ingest to reject."""
        word = text.strip()
        if not word.isdecimal():
            return split_name(word)
        found = [split for split, folds in zip(("TRAIN", "VAL", "TEST"), self.folds, strict=True) if int(word) in folds]
        return found[0] if found else f"FOLD {word}"

    def folds_note(self) -> str:
        named = zip(("TRAIN", "VAL", "TEST"), self.folds, strict=True)
        return "folds: " + ", ".join(f"{split} {' '.join(map(str, folds)) or 'none'}" for split, folds in named)


class Adapter(ABC):
    """One layout. Adapters keep no state."""

    name: str  # for --adapter
    help: str  # one line: what the layout is

    @abstractmethod
    def recognises(self, source: str) -> bool:
        """Whether files or folders that only this layout has are in the folder `source`; a few look-ups, no listing."""

    @abstractmethod
    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        """What is in an absolute source. Every file that the layout has a place for is a Row or Rejected, once; a row
        comes before its traces.

        Errors, while it is read:
            StorageError: nothing there, or no clip in it. ManifestError: a table lacks a column or cannot be read.
        """


def split_name(text: str) -> str:
    """A data set's word for a split as the manifest's; other words in capitals, for ingest to reject."""
    word = text.strip().upper()
    return {"TRAINING": "TRAIN", "VALIDATION": "VAL", "VALID": "VAL", "TESTING": "TEST"}.get(word, word)
