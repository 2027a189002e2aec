"""Makes schemas/*.json here: of KubeRay's CRDs (Apache-2.0, helm-chart/kuberay-operator/crds, commit feeaf72), and
of the Compute Engine API as google-api-python-client 2.202.0 ships it (Apache-2.0, discovery_cache/documents).

    python tests/cluster/slim_schema.py ray.io_rayjobs.yaml tests/cluster/schemas/rayjob.json
    python tests/cluster/slim_schema.py compute.v1.json tests/cluster/schemas/compute_instance.json

Leaves descriptions out, writes what stands there several times once, and closes every object: Kubernetes drops fields
that it does not know, without a word.
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


def google(node: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """JSON schema of one of Google's, whose references are names in `schemas`."""
    if "$ref" in node:
        return google(schemas[node["$ref"]], schemas)
    if node["type"] == "array":
        return {"type": "array", "items": google(node["items"], schemas)}
    if node["type"] == "object":
        fields = {name: google(value, schemas) for name, value in node.get("properties", {}).items()}
        others = node.get("additionalProperties")
        return {
            "type": "object",
            "properties": fields,
            "additionalProperties": google(others, schemas) if others else False,
        }
    if node.get("format") in ("int64", "uint64"):  # JSON numbers of that size are strings, or numbers
        return {"type": ["string", "integer"]}
    return {key: node[key] for key in ("type", "enum") if key in node and node[key] != "any"}


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
    source, target = map(Path, sys.argv[1:])
    if source.suffix == ".json":
        schemas = json.loads(source.read_text())["schemas"]
        schema = share(google(schemas["Instance"], schemas))
    else:
        definition = yaml.load(source.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        (version,) = [item for item in definition["spec"]["versions"] if item["name"] == "v1"]
        schema = share(slim(version["schema"]["openAPIV3Schema"]))
    target.write_text(json.dumps(schema, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
