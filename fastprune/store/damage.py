"""Bytes that are not what they should be: fetched again once, then refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastprune.errors import InputError

Found = TypeVar("Found")


class Damaged(InputError):
    """What a store gave, twice, has another digest than it should have.

    Attributes
    ----------
    uri, difference : str
        What was fetched, and how it differs.
    """

    def __init__(self, uri: str, difference: str, remedy: str = "put the right content there again") -> None:
        super().__init__(f"{uri}: fetched twice, and {difference}: it is damaged there or on the way; {remedy}")
        self.uri, self.difference = uri, difference


def twice(fetch: Callable[[], Found]) -> Found:
    """What ``fetch`` returns, in a second try if the first raises Damaged: the damage may be one of the way."""
    try:
        return fetch()
    except Damaged:
        return fetch()
