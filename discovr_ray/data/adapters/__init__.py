"""Data sets' layouts -> rows without video facts; one file per layout."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from discovr_ray.data import storage
from discovr_ray.data.adapters.camus import Camus
from discovr_ray.data.adapters.cardiacnet import CardiacNet
from discovr_ray.data.adapters.echonet_dynamic import EchoNetDynamic
from discovr_ray.data.adapters.echonet_lvh import EchoNetLVH
from discovr_ray.data.adapters.echonet_pediatric import EchoNetPediatric
from discovr_ray.data.adapters.folder import Folder
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Note, Row
from discovr_ray.data.adapters.mimic_iv_echo import MimicIvEcho
from discovr_ray.data.adapters.own_table import OwnTable
from discovr_ray.data.adapters.rvenet import RVENet
from discovr_ray.data.adapters.table_file import suggestion
from discovr_ray.errors import ManifestError

logger = logging.getLogger(__name__)

FOLDER = Folder()  # what no other adapter recognises
ADAPTERS: tuple[Adapter, ...] = (
    EchoNetDynamic(),
    EchoNetPediatric(),
    EchoNetLVH(),
    RVENet(),
    MimicIvEcho(),
    Camus(),
    CardiacNet(),
    OwnTable(),
    FOLDER,
)


def find_adapter(source: str, name: str = "") -> Adapter:
    """The adapter of that name; without one, the only one that recognises the source, else the plain folder.

    Errors:
        ManifestError: an unknown name, or several adapters recognise the source.
    """
    by_name = {adapter.name: adapter for adapter in ADAPTERS}
    if name:
        if name not in by_name:
            raise ManifestError(f"no adapter {name!r}{suggestion([name], by_name)}")
        return by_name[name]
    found = [adapter for adapter in ADAPTERS if adapter is not FOLDER and adapter.recognises(source)]
    if len(found) > 1:
        raise ManifestError(f"{source}: may be {' or '.join(item.name for item in found)}; choose one with --adapter")
    return found[0] if found else FOLDER


def list_source(source: str, options: AdapterOptions | None = None) -> Iterator[Found]:
    """What is in a SOURCE: a data set in a known layout, a folder, a file, a glob or a table; local or on s3://.

    Errors, while it is read:
        StorageError: nothing there, or no clip in it. ManifestError: as of find_adapter, or tables that lack a column.
    """
    source = storage.absolute(source)
    options = options or AdapterOptions()
    chosen = find_adapter(source, options.adapter)
    logger.info("adapter %s for %s", chosen.name, source)
    yield Note(f"{source}: adapter {chosen.name}")
    for item in chosen.list_clips(source, options):
        yield item._replace(fps=options.fps) if isinstance(item, Row) and not item.fps else item
