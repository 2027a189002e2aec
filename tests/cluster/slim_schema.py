"""Makes schemas/*.json here from KubeRay's CRDs (Apache-2.0, helm-chart/kuberay-operator/crds, commit feeaf72).

    python tests/cluster/slim_schema.py ray.io_rayjobs.yaml tests/cluster/schemas/rayjob.json

Keeps version v1 without descriptions, writes what stands there several times once, and closes every object: Kubernetes
drops fields that it does not know, without a word.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

SMALL = 300  # characters; shorter pieces are not worth a reference


def slim(schema: dict[str, Any]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of an OpenAPI v3 schema as Kubernetes has it."""
    kept = {key: value for key, value in schema.items() if key != "description" and not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
        kept.pop("anyOf", None)
    if "properties" in schema:
        kept["properties"] = {name: slim(value) for name, value in schema["properties"].items()}
        kept.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = slim(kept[key])
    return kept


def share(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, with `$defs` for the large pieces that it holds more than once."""
    counts: Counter[str] = Counter()
    count_pieces(schema, counts)
    definitions: dict[str, Any] = {}

    def shared(node: Any) -> Any:
        if isinstance(node, list):
            return [shared(item) for item in node]
        if not isinstance(node, dict):
            return node
        text = json.dumps(node, sort_keys=True)
        if counts[text] < 2 or len(text) < SMALL:
            return {key: shared(value) for key, value in node.items()}
        name = hashlib.sha256(text.encode()).hexdigest()[:10]
        if name not in definitions:
            definitions[name] = {}  # its place, before those of its parts
            definitions[name] = {key: shared(value) for key, value in node.items()}
        return {"$ref": f"#/$defs/{name}"}

    return {**{key: shared(value) for key, value in schema.items()}, "$defs": definitions}


def count_pieces(node: Any, counts: Counter[str]) -> None:
    if isinstance(node, dict):
        if "type" in node:
            counts[json.dumps(node, sort_keys=True)] += 1
        for value in node.values():
            count_pieces(value, counts)
    elif isinstance(node, list):
        for item in node:
            count_pieces(item, counts)


def main() -> None:
    source, target = sys.argv[1:]
    definition = yaml.load(Path(source).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [item for item in definition["spec"]["versions"] if item["name"] == "v1"]
    schema = share(slim(version["schema"]["openAPIV3Schema"]))
    Path(target).write_text(json.dumps(schema, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
