"""A folder, a file or a glob of videos, nothing known but their names."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Listing, Row
from discovr_ray.data.adapters.table_file import MEDIA_SUFFIXES, stem
from discovr_ray.errors import StorageError


class Folder(Adapter):
    """A row's id is the path below the source, without the extension."""

    name = "folder"
    help = "a folder of videos, DICOM and NIfTI files at any depth, one file, or a glob in quotes"

    def recognises(self, source: str) -> bool:
        return True

    def list_clips(self, source: str, options: AdapterOptions) -> Listing:
        if any(sign in source for sign in "*?[") and not storage.exists(source):
            root, uris, num_others = _fixed_part(source), storage.glob(source), 0
            if not uris:
                raise StorageError(f"{source}: the pattern matches no file")
        else:
            found = storage.list_files(source)
            uris = [uri for uri in found if _is_taken(uri, options.without_suffix)]
            num_others = len(found) - len(uris)
            root = source.rpartition("/")[0] if uris == [source] else source
        if not uris:
            hint = "" if options.without_suffix else "; --files-without-suffix takes those of DICOM archives, too"
            raise StorageError(f"{source}: no video file ({', '.join(MEDIA_SUFFIXES)}){hint}")
        pattern = re.compile(options.patient_pattern) if options.patient_pattern else None
        notes = [f"{num_others} other files, not videos by their suffix, were left out"] if num_others else []
        return Listing([_row(uri, root, pattern, options) for uri in uris], [], notes=notes)


def _is_taken(uri: str, without_suffix: bool) -> bool:
    return uri.lower().endswith(MEDIA_SUFFIXES) or (without_suffix and _has_no_suffix(uri))


def _has_no_suffix(uri: str) -> bool:
    """Names of DICOM archives: IM_0001, or a UID such as 1.2.840.10008.5, whose last number is no suffix."""
    path = PurePosixPath(uri)
    is_hidden = path.name.startswith(".")
    return not is_hidden and path.name != "DICOMDIR" and (not path.suffix or path.suffix[1:].isdecimal())


def _row(uri: str, root: str, pattern: re.Pattern[str] | None, options: AdapterOptions) -> Row:
    path = uri.removeprefix(root).lstrip("/")
    found = pattern.search(path) if pattern else None
    patient = options.private_id(found[1] or "") if found else ""
    return Row(stem(path), uri, patient, "", "", "{}", names_clip=False, names_patient=False)


def _fixed_part(pattern: str) -> str:
    """The folders in front of the first wildcard."""
    before = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return before.rpartition("/")[0]
