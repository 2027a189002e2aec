"""Results of probes on storage: kept as long as features, labels and settings are those that they came from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy
import sklearn

from discovr_ray.data import storage
from discovr_ray.evaluate.probes import Probe
from discovr_ray.evaluate.results import to_plain
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Problem

logger = logging.getLogger(__name__)

VERSION = 1  # of what probes compute; another one makes kept results worthless


class Kind(NamedTuple):
    """Of a result that is no probe's: its name, and how it comes back from plain values."""

    name: str
    from_plain: Callable[..., Any]


class KeptResults:
    """A folder with one file for each model and probe."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def get(self, model: str, probe: Probe | Kind, key: str) -> Any:
        """The result of this key; None when there is none, or another one, or its file is damaged."""
        uri = self.uri_of(model, probe)
        if not storage.exists(uri):
            return None
        try:
            found = json.loads(storage.read_bytes(uri))
            return probe.from_plain(found["result"]) if found["key"] == key else None
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged and computed again: %r", uri, error)
            return None

    def put(self, model: str, probe: Probe | Kind, key: str, result: Any) -> None:
        content = {"key": key, "model": model, "probe": probe.name, "result": to_plain(result)}
        storage.write_bytes(self.uri_of(model, probe), json.dumps(content, allow_nan=False).encode())

    def uri_of(self, model: str, probe: Probe | Kind) -> str:
        return storage.join(self._uri, model, f"{probe.name}.json")


def result_key(probe: Probe, problem: Problem, settings: ProbeSettings) -> str:
    """Hash of everything that a result follows from."""
    asked = {name: getattr(settings, name) for name in (*probe.asked, "seed", "draws")}
    facts = [VERSION, probe.name, asked, problem.classes, problem.has_normal, library_versions()]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for side in (problem.train, problem.val, problem.test):
        digest.update("\n".join([*side.clip_ids, *side.patient_ids.tolist()]).encode())
        for array in (side.x, side.y):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def library_versions() -> dict[str, Any]:
    """Of the libraries that compute what a probe says."""
    return {module.__name__: module.__version__ for module in (sklearn, scipy, np)}
