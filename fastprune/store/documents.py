"""JSON documents that are known by their digest: manifests, evidence, verdicts, the events of the record."""

from __future__ import annotations

import hashlib
import json
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from fastprune.errors import InputError
from fastprune.store.bounded import parse_json


class Document(BaseModel):
    """A document of a stated schema version; equal documents have the same bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that the first version of a document did not have: left out where they say nothing, so that the digests
    of older ones stay."""

    schema_version: Literal[1] = 1

    @property
    def content(self) -> bytes:
        known = self.model_dump(mode="json")
        told = {name: value for name, value in known.items() if value is not None or name not in self.later}
        return (json.dumps(told, indent=2, sort_keys=True) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @classmethod
    def parse(cls, content: bytes, name: object, remedy: str) -> Self:
        """Read one; ``name`` says what it is, and ``remedy`` what to do, in what is refused as InputError."""
        parse_json(content, name)  # its bounds, and that no key is there twice: pydantic takes the last
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise InputError(
                f"{name}: does not fit schema version 1 ({where + ': ' if where else ''}{problem['msg']}); {remedy}"
            ) from error
