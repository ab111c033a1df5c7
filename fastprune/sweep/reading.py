"""Reading the configuration file: whatever is wrong in it is refused with its line."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from fastprune.errors import InputError
from fastprune.settings import Budget
from fastprune.store.bounded import CONFIG_BYTES, decode, parse_yaml, read_bytes
from fastprune.sweep.config import Model, Section, Sweep

_Kind = TypeVar("_Kind", bound=Section)


def read_config(path: str | Path, *, here: bool = True) -> Sweep:
    """Read a configuration file, with paths in it relative to its folder.

    Parameters
    ----------
    path : str or Path
        YAML.
    here : bool
        It is to run on this machine, so that its local files must exist. Else local paths must be absolute: they
        are taken for mounts of the cluster.

    Returns
    -------
    Sweep
        ``release.policy`` holds the policy's content.

    Raises
    ------
    InputError
        Anything wrong in it: the message names the file, the line and the key.
    """
    path = Path(path)
    try:
        text = decode(read_bytes(path, CONFIG_BYTES), path)
    except OSError as error:
        raise InputError(f"{path}: the configuration cannot be read ({error})") from error
    return parse_config(text, path, here=here)


def parse_config(text: str, path: Path, *, here: bool = True) -> Sweep:
    """:func:`read_config` of a file's content."""
    sweep, node = validated(Sweep, text, path)
    return _with_files(sweep, path, node, here)


def validated(kind: type[_Kind], text: str, path: Path) -> tuple[_Kind, yaml.Node]:
    """A section and the YAML that it was read from. Raises InputError with the line of whatever is wrong."""
    document, node = parse_yaml(text, path)
    if node is None or not isinstance(document, dict):
        needed = [name for name, field in kind.model_fields.items() if field.is_required()]
        raise InputError(f"{path}: a configuration is a mapping with {', '.join(needed)}")
    try:
        return kind.model_validate(document), node
    except ValidationError as error:
        raise InputError("\n".join(_explain(dict(problem), path, node) for problem in error.errors())) from error


def _explain(problem: dict, path: Path, node: yaml.Node) -> str:
    loc = [part for part in problem["loc"] if part != "[key]"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and (named := re.match(r"([\w.]+): ", message)):
        loc += [int(part) if part.isdigit() else part for part in named[1].split(".")]
        message = message[named.end() :]
    if problem["type"] == "extra_forbidden":
        known = {key for section in Section.__subclasses__() for key in section.model_fields}
        known |= {field.name for field in fields(Budget)}
        close = difflib.get_close_matches(str(loc[-1]), sorted(known), 1)
        message = "unknown key" + (f"; did you mean {close[0]}?" if close else "")
    elif problem["type"] == "unexpected_keyword_argument":
        close = difflib.get_close_matches(str(loc[-1]), [field.name for field in fields(Budget)], 1)
        message = "unknown key" + (f"; did you mean {close[0]}?" if close else "")
    elif problem["type"] == "missing":
        message = "this key is missing"
    elif problem["type"] != "value_error":
        message += f"; here is {json.dumps(problem['input'], default=str)[:80]}"
    return f"{path}, line {_line(node, loc)}: {'.'.join(map(str, loc)) or 'the configuration'}: {message}"


def _line(node: yaml.Node, loc: list) -> int:
    """The line of a key, or of the nearest section that is there."""
    line = node.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1


def with_files(models: Sequence[Model], path: Path, node: yaml.Node, here: bool = True) -> list[Model]:
    """Models of a configuration with their paths resolved. Raises InputError for a file that is not there."""

    def found(model: Model, index: int, key: str, **kind: bool) -> str:
        return _found(getattr(model, key), ("models", index, key), path, node, here, **kind)

    return [
        model.model_copy(
            update={
                "source": found(model, index, "source", hub=True),
                **{key: found(model, index, key, table=True) for key in ("train_file", "eval_file", "validation_file")},
            }
        )
        for index, model in enumerate(models)
    ]


def _found(
    value: str,
    loc: Sequence[str | int],
    path: Path,
    node: yaml.Node,
    here: bool,
    *,
    hub: bool = False,
    table: bool = False,
) -> str:
    """A path in the configuration as it is used.

    Parameters
    ----------
    hub : bool
        It may be the name of a model on the hub.
    table : bool
        It may be a folder that has a folder of images for each class.
    """
    if not value or value.startswith("s3://"):
        return value
    file = path.parent / value
    where = f"{path}, line {_line(node, list(loc))}: {'.'.join(map(str, loc))}"
    if hub and not value.startswith((".", "/")) and not (here and os.path.exists(file)):
        return value
    if here and not os.path.exists(file):
        raise InputError(f"{where}: there is no {file}")
    classes = table and os.path.isdir(file) and any(entry.is_dir() for entry in os.scandir(file))
    if here and not (hub or classes or os.path.isfile(file)):
        raise InputError(f"{where}: {file} is a folder, a pipe or a device; give a regular file")
    if not here and not Path(value).is_absolute():
        raise InputError(
            f"{where}: {value} is a path on this machine, which the cluster's containers do not have; "
            "use s3://, or the absolute path of a volume that is mounted in them"
        )
    return str(file.resolve()) if here else value


def _with_files(sweep: Sweep, path: Path, node: yaml.Node, here: bool) -> Sweep:
    """Resolve the paths, and put the policy's content in place of its file."""
    models = with_files(sweep.models, path, node, here)
    lut = _found(sweep.latency.lut, ("latency", "lut"), path, node, here)
    latency = sweep.latency.model_copy(update={"lut": lut})
    release = sweep.release
    if release.policy:
        from fastprune.releases.policy import parse_policy, read_policy

        where = f"{path}, line {_line(node, ['release', 'policy'])}: release.policy"
        if release.policy.lstrip().startswith("{"):  # the content itself
            policy = parse_policy(release.policy, where)
        elif os.path.exists(file := path.parent / release.policy):
            policy = read_policy(file)
        else:
            raise InputError(f"{where}: there is no {file}")
        release = release.model_copy(update={"policy": policy.model_dump_json()})
    return sweep.model_copy(update={"models": models, "latency": latency, "release": release})
