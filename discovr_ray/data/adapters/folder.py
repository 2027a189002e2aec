"""A folder, a file or a glob of videos, nothing known but their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Note, Row
from discovr_ray.data.adapters.table_file import MEDIA_SUFFIXES, stem
from discovr_ray.data.scratch import in_order
from discovr_ray.errors import StorageError


class Folder(Adapter):
    """A row's id is the path below the source, without the extension."""

    name = "folder"
    help = "a folder of videos, DICOM and NIfTI files at any depth, one file, or a glob in quotes"

    def recognises(self, source: str) -> bool:
        return True

    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        pattern = re.compile(options.patient_pattern) if options.patient_pattern else None
        if any(sign in source for sign in "*?[") and not storage.exists(source):
            uris = storage.glob(source)
            if not uris:
                raise StorageError(f"{source}: the pattern matches no file")
            yield from (_row(uri, _fixed_part(source), pattern, options) for uri in uris)
            return
        num_taken = num_others = 0
        for uri in in_order(storage.walk_files(source)):
            if not _is_taken(uri, options.without_suffix):
                num_others += 1
                continue
            num_taken += 1
            yield _row(uri, source.rpartition("/")[0] if uri == source else source, pattern, options)
        if not num_taken:
            hint = "" if options.without_suffix else "; --files-without-suffix takes those of DICOM archives, too"
            raise StorageError(f"{source}: no video file ({', '.join(MEDIA_SUFFIXES)}){hint}")
        if num_others:
            yield Note(f"{num_others} other files, not videos by their suffix, were left out")


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
