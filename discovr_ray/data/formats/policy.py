"""What a user allows into a manifest, beyond what can be decoded at all."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from discovr_ray.errors import ConfigError

DICOM_SUFFIXES = (".dcm", ".dicom")
ID_KEY = "DISCOVR_ID_KEY"
MIN_KEY_LENGTH = 32  # characters; 16 random bytes in hexadecimal
MAKE_KEY = f"export {ID_KEY}=$(python -c 'import secrets; print(secrets.token_hex(32))')"
NO_KEY = f"{ID_KEY} is not set, and ids of DICOM files are keyed hashes. Make a key once, and keep it: {MAKE_KEY}"


@dataclass(frozen=True)
class IngestPolicy:
    """Travels to the workers as an argument, so the key reaches them there and nowhere else; its repr leaves it out."""

    color: Literal["drop", "keep"] = "drop"  # clips with colour Doppler
    # mask: black outside of the sector, no clip without one unless the file says that no text is burned in;
    # drop: also no clip that says that text is burned in; keep: masked where a sector is found, every clip is taken
    burned_in: Literal["mask", "drop", "keep"] = "mask"
    id_key: str = field(default="", repr=False)  # of the keyed hashes; "": files give no ids

    def __post_init__(self) -> None:
        if self.id_key and len(self.id_key) < MIN_KEY_LENGTH:
            rule = f"{ID_KEY} has {len(self.id_key)} characters; at least {MIN_KEY_LENGTH} are needed: {MAKE_KEY}"
            raise ConfigError([rule])


def key_of_environment() -> str:
    return os.environ.get(ID_KEY, "").strip()
