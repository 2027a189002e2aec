"""Public layouts -> rows without video facts; one file per layout."""

from __future__ import annotations

from discovr_ray.data import storage
from discovr_ray.data.adapters import echonet_dynamic, folder
from discovr_ray.data.adapters.listing import Listing


def list_source(source: str, patient_pattern: str = "") -> Listing:
    """Rows of one SOURCE: an EchoNet-Dynamic folder, a folder, a file or a glob of video files; local or on s3://.

    Args:
        patient_pattern: for folders and globs, a regular expression whose first group, found in the path below the
            source, is the patient; "" or no match: every file is a patient of its own.
    Errors:
        StorageError: nothing there, or no video in it. ManifestError: tables that lack a column.
    """
    source = storage.absolute(source)
    if storage.exists(storage.join(source, echonet_dynamic.FILE_LIST)):
        return echonet_dynamic.list_clips(source)
    return folder.list_clips(source, patient_pattern)
