"""A compiled pipeline as a file: its name, parameters and digest; caching turned off in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from fastprune.errors import InputError
from fastprune.store.secrets import tells_secret

_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "STRING": ("text", lambda value: isinstance(value, str)),
    "BOOLEAN": ("true or false", lambda value: isinstance(value, bool)),
    "NUMBER_INTEGER": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "NUMBER_DOUBLE": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "LIST": ("a list", lambda value: isinstance(value, list)),
    "STRUCT": ("a mapping", lambda value: isinstance(value, dict)),
}


@dataclass(frozen=True)
class Package:
    """A compiled pipeline: its file, name, the file's SHA-256, the parameters' types, and those without a default."""

    path: Path
    name: str
    digest: str
    parameters: dict[str, str]
    required: frozenset[str]

    @property
    def version(self) -> str:
        """The name of the pipeline version: the same for the same content."""
        return f"{self.name}-{self.digest[:16]}"


def read_package(path: str | Path) -> Package:
    """Read what the compiler wrote. Raises InputError where it is not a compiled pipeline."""
    path = Path(path)
    try:
        content = path.read_bytes()
        first, *_ = yaml.safe_load_all(content)
        spec = json_format.ParseDict(first, pipeline_spec_pb2.PipelineSpec())
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError, json_format.ParseError) as error:
        raise InputError(f"{path}: not a compiled pipeline ({error})") from error
    inputs = spec.root.input_definitions.parameters
    kinds = pipeline_spec_pb2.ParameterType.ParameterTypeEnum
    return Package(
        path,
        spec.pipeline_info.name,
        hashlib.sha256(content).hexdigest(),
        {name: kinds.Name(given.parameter_type) for name, given in inputs.items()},
        frozenset(
            name for name, given in inputs.items() if not given.is_optional and not given.HasField("default_value")
        ),
    )


def without_caching(package: str | Path, output: str | Path) -> None:
    """Write the package with the service's caching turned off for every task.

    The client's own setting does not reach into nested pipelines and loops, and not at all into an uploaded version.
    """
    documents = list(yaml.safe_load_all(Path(package).read_text(encoding="utf-8")))
    components = documents[0]["components"]
    for component in (documents[0]["root"], *components.values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            if "executorLabel" in components[task["componentRef"]["name"]]:  # loops and pipelines have none
                task["cachingOptions"] = {}
    Path(output).write_text(yaml.safe_dump_all(documents, sort_keys=True), encoding="utf-8")


def check_arguments(package: Package, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the pipeline does not take, those of another type, and the lack of one that it needs."""
    takes = f"the pipeline {package.name} takes {', '.join(sorted(package.parameters)) or 'no arguments'}"
    if missing := sorted(package.required - set(arguments)):
        raise InputError(f"argument {missing[0]} is missing: {takes}")
    for name, value in arguments.items():
        if name not in package.parameters:
            raise InputError(f"argument {name} is unknown: {takes}")
        described, fits = _TYPES[package.parameters[name]]
        if not fits(value):
            raise InputError(f"argument {name}: {value!r} is not {described}")
        if isinstance(value, str) and tells_secret(value):
            raise InputError(
                f"argument {name}: holds a password or a token, which the service would show; leave it out"
            )


def parse_arguments(package: Package, texts: Iterable[str]) -> dict[str, Any]:
    """Arguments from ``NAME=VALUE``, VALUE as JSON except where the pipeline takes text, and checked."""
    values = {}
    for given in texts:
        name, equals, text = given.partition("=")
        if not equals:
            raise InputError(f"argument {given!r}: write it as NAME=VALUE")
        values[name] = text
        if package.parameters.get(name, "STRING") != "STRING":
            with suppress(ValueError):  # it stays text, which is refused with what it should be
                values[name] = json.loads(text)
    check_arguments(package, values)
    return values
