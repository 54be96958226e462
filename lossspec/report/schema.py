"""The JSON schema of an artifact, made from its records; run as a module, it writes both files."""

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from lossspec.report.files import replace_file
from lossspec.report.reader import REQUIRED, Record, keys, plain_kind
from lossspec.report.records import SCHEMA_VERSION, Artifact
from lossspec.report.verdict import Verdict

__all__ = ["schema", "text", "write"]

COMMAND = "python -m lossspec.report.schema"
#: The module and the class of each artifact. They are imported late, because the timing package
#: imports this one.
_ARTIFACTS = (
    ("lossspec.report.records", "Report"),
    ("lossspec.timing.results", "TimingReport"),
)
_PLAIN = {str: "string", int: "integer"}


def schema(artifact: type[Artifact]) -> dict[str, Any]:
    """Return the JSON schema of an artifact.

    A run writes every key. A report of another version of lossspec may lack keys that are not
    required, and may have further ones.
    """
    definitions: dict[str, Any] = {}
    described = _described(artifact, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lossspec:{artifact.KIND}:{SCHEMA_VERSION}",
        "title": f"lossspec {artifact.KIND} report",
        "description": (
            f"{artifact.TITLE} Made by `{COMMAND}`. A number that is not finite is one of the "
            "strings inf, -inf, nan. Ignore keys that you do not know."
        ),
        "type": "object",
        "required": ["schema_version", *described["required"]],
        "properties": {"schema_version": {"const": SCHEMA_VERSION}, **described["properties"]},
        "$defs": definitions,
    }


def text(artifact: type[Artifact]) -> str:
    """Return the schema as the text of its file."""
    return json.dumps(schema(artifact), indent=2, ensure_ascii=False) + "\n"


def artifacts() -> Iterator[tuple[Path, type[Artifact]]]:
    """Yield the file of the schema and the class of each artifact."""
    for name, artifact in _ARTIFACTS:
        module = importlib.import_module(name)
        yield module.SCHEMA, getattr(module, artifact)


def write() -> list[Path]:
    """Write the schema of each kind of artifact, and return the paths."""
    paths = []
    for path, artifact in artifacts():
        replace_file(path, text(artifact))
        paths.append(path)
    return paths


def _described(record: type[Record], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a record."""
    noted = keys(record)
    return {
        "type": "object",
        "required": [name for name, key in noted.items() if key.missing is REQUIRED],
        "properties": {field.name: _of(field.type, definitions) for field in fields(record)},
    }


def _of(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field with this annotation."""
    kind, key = plain_kind(annotation)
    inferred = {} if "type" in key.rules else _of_kind(kind, definitions)
    told = {"description": key.says} if key.says else {}
    return {**told, **inferred, **key.rules}


def _of_kind(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, UnionType):
        (some,) = (option for option in arguments if option is not NoneType)
        return _or_null(_of(some, definitions))
    if kind is Verdict or origin is Literal:
        return {"enum": [str(word) for word in (arguments or Verdict)]}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is dict:
        values = {} if arguments[1] is Any else _of(arguments[1], definitions)
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    if kind is float:
        return {"anyOf": [{"type": "number"}, {"enum": ["inf", "-inf", "nan"]}]}
    if isinstance(kind, type) and issubclass(kind, Record):
        name = kind.__name__
        if name not in definitions:
            definitions[name] = {}  # reserves the place before the definitions of its parts
            first = (kind.__doc__ or "").strip().splitlines()[0]
            definitions[name] = {"description": first, **_described(kind, definitions)}
        return {"$ref": f"#/$defs/{name}"}
    return {"type": _PLAIN[kind]}


def _or_null(some: dict[str, Any]) -> dict[str, Any]:
    if isinstance(some.get("type"), str):
        return {**some, "type": [some["type"], "null"]}
    if "anyOf" in some:
        return {**some, "anyOf": [*some["anyOf"], {"type": "null"}]}
    return {"anyOf": [some, {"type": "null"}]}


def main(arguments: Sequence[str]) -> int:
    """Write the schemas and print their paths; return the exit status."""
    if arguments:
        print(f"takes no argument, got {arguments[0]!r}; run `{COMMAND}`", file=sys.stderr)
        return 4
    for path in write():
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
