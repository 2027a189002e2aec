"""CardiacNet: four-chamber views with pulmonary hypertension (PAH), an atrial septal defect (ASD), or without.

Layout as published with Yang et al., "CardiacNet: learning to reconstruct abnormalities for cardiac disease assessment
from echocardiogram videos" (ECCV 2024): folders PAH, Non-PAH, ASD and Non-ASD, directly or in CardiacNet-PAH and
CardiacNet-ASD, with NNN_image.nii.gz and NNN_label.nii.gz. The folder is the label. Numbers begin anew in each folder
and name no patient, so every clip counts as a patient of its own. There is no official split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Rejected, Row
from discovr_ray.data.adapters.table_file import as_json
from discovr_ray.errors import StorageError

VIEW = "A4C"
GROUPS = ("PAH", "ASD")
_NAME = re.compile(r"(?:.*/)?(?P<folder>(?P<non>Non-)?(?:PAH|ASD))/(?P<number>\d+)_(?P<kind>image|label)\.nii(?:\.gz)?")


class CardiacNet(Adapter):
    name = "cardiacnet"
    help = "CardiacNet: PAH, Non-PAH, ASD, Non-ASD/NNN_image.nii.gz; needs --fps"

    def recognises(self, source: str) -> bool:
        places = [f"{parent}Non-{group}" for group in GROUPS for parent in ("", f"CardiacNet-{group}/")]
        return any(storage.exists(storage.join(source, place)) for place in places)

    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        """The images. Label files are masks of chambers whose values are not documented, so they are left alone."""
        rows: dict[str, Row] = {}
        masks: dict[str, str] = {}
        rejected = []
        for uri in storage.list_files(source, (".nii", ".nii.gz")):
            name = _NAME.fullmatch(uri.removeprefix(source).lstrip("/"))
            clip_id = f"{name['folder']}/{name['number']}" if name else ""
            if not name:
                rejected.append(Rejected(uri, "no name of a file of CardiacNet"))
            elif name["kind"] == "label":
                masks[clip_id] = uri
            elif clip_id in rows:
                rejected.append(Rejected(uri, "another file has the same name"))
            else:
                labels = as_json({"abnormal": 0 if name["non"] else 1, "diagnosis": name["folder"]})
                rows[clip_id] = Row(clip_id, uri, clip_id, "", VIEW, labels)
        if not rows:
            raise StorageError(f"{source}: no file of CardiacNet (such as PAH/001_image.nii.gz)")
        yield from rows.values()
        yield from rejected
        for clip_id, uri in masks.items():
            if clip_id not in rows:
                yield Rejected(uri, "a mask whose image is missing")
