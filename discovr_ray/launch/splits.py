"""Which clips train, validate and test: by the source's word or by a hash, and never a patient on two sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from discovr_ray.data.manifest import SPLITS
from discovr_ray.errors import ManifestError
from discovr_ray.randomness import clip_key, uniform

SPLIT_SALT = 0x53504C4954  # so that the split is independent of everything else that is drawn from a key


class Torn(NamedTuple):
    """A patient in several splits, and how many such patients there are."""

    patient_id: str
    splits: list[str]
    num_patients: int


@dataclass(frozen=True)
class SplitRule:
    """How clips get a split. Patients stay whole, and a patient's split never depends on the other ones."""

    rule: Literal["given", "hash", "none"] = "given"  # the source's own where it has one, else by hash | hash | ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)  # TRAIN, VAL, TEST shares of the patients, by hash

    def __post_init__(self) -> None:
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ManifestError(f"split fractions {self.fractions}: must be three shares that add up to 1")

    def reason_against(self, split: str) -> str:
        """Why a clip that the source puts into `split` cannot be used; "" when it can."""
        if self.rule != "given" or split in SPLITS:
            return ""
        return f"split {split!r} is none of TRAIN, VAL and TEST (--split-rule hash ignores it)"

    def check(self, torn: Torn | None) -> None:
        """Refuses patients in several splits, where the sources' word counts.

        Errors:
            ManifestError: names one such patient and their number.
        """
        if torn and self.rule == "given":
            raise ManifestError(
                f"{torn.num_patients} patient(s) would be in more than one split, such as {torn.patient_id!r} in "
                f"{' and '.join(torn.splits)}; --split-rule hash gives every patient one split of its own"
            )

    def of_clips(self, patients: Sequence[str], given: Sequence[str]) -> list[str]:
        """Splits of clips; drawn by hash of the patient where nothing is given.

        Args:
            given: what the sources say of the patients' clips, "" for nothing.
        """
        if self.rule == "none":
            return [""] * len(patients)
        drawn = hashed_splits(patients, self.fractions)
        if self.rule == "hash":
            return drawn
        return [said or split for said, split in zip(given, drawn, strict=True)]


def hashed_splits(patients: Sequence[str], fractions: tuple[float, float, float]) -> list[str]:
    keys = np.array([clip_key(patient) for patient in patients], np.uint64)
    bounds = np.cumsum(fractions)[:2]
    return [SPLITS[place] for place in np.searchsorted(bounds, uniform(SPLIT_SALT, keys), side="right").tolist()]
