"""A folder, a file or a glob of video files, nothing known but their names."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Listing, Row
from discovr_ray.errors import StorageError

VIDEO_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")


class Folder(Adapter):
    """A row's id is the path below the source, without the extension."""

    name = "folder"
    help = "a folder of videos at any depth, one file, or a glob in quotes"

    def recognises(self, source: str) -> bool:
        return True

    def list_clips(self, source: str, options: AdapterOptions) -> Listing:
        if any(sign in source for sign in "*?[") and not storage.exists(source):
            root, uris = _fixed_part(source), storage.glob(source)
            if not uris:
                raise StorageError(f"{source}: the pattern matches no file")
        else:
            uris = storage.list_files(source, VIDEO_SUFFIXES)
            root = source.rpartition("/")[0] if uris == [source] else source
        if not uris:
            raise StorageError(f"{source}: no video file ({', '.join(VIDEO_SUFFIXES)})")
        pattern = re.compile(options.patient_pattern) if options.patient_pattern else None
        return Listing([_row(uri, root, pattern) for uri in uris], [])


def _row(uri: str, root: str, pattern: re.Pattern[str] | None) -> Row:
    path = uri.removeprefix(root).lstrip("/")
    clip_id = str(PurePosixPath(path).with_suffix(""))
    found = pattern.search(path) if pattern else None
    return Row(clip_id, uri, found[1] if found else clip_id, "", "", "{}", named=False)


def _fixed_part(pattern: str) -> str:
    """The folders in front of the first wildcard."""
    before = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return before.rpartition("/")[0]
