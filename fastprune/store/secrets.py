"""Passwords, tokens and signatures kept out of what is said: the one place where they are masked."""

from __future__ import annotations

import re

# `user:password@` and a bare `token@`. A password may itself hold `@` or `/`: up to the last `@` of the word.
_LOGIN = re.compile(r"(://)(?:([^\s:/@'\"]*):[^\s'\"]*|[^\s/:@'\"?#]+)@")
_NAMES = r"[\w-]*(?:password|passwd|pwd|secret|token|sig|signature|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?)"
_FIELD = re.compile(
    rf"\b({_NAMES})"
    r"(\s*[=:]\s*)(?!//)('[^']*'|\"[^\"]*\"|[^\s&'\",;)]+)",
    re.IGNORECASE,
)


_USER = re.compile(r"(postgresql[+\w]*://)[^\s:@/]+@")

_QUERY = re.compile(rf"([?&]{_NAMES}=)[^\s&'\",;)]+", re.IGNORECASE)


def without_logins(text: str) -> str:
    """A text of our own, in which values of the user stand: only what is in a URI for certain is masked."""
    return _QUERY.sub(r"\1***", _LOGIN.sub(_login, text))


def shown(text: object) -> str:
    """A URI, or the text of a library's exception, without the secrets in it.

    Masked are ``user:password@``, ``token@``, and values of what is named a password, secret, token, signature, key.
    """
    return _FIELD.sub(r"\1\2***", _LOGIN.sub(_login, str(text)))


def tells_secret(text: str) -> bool:
    """Whether a setting, ``NAME=value`` or a value, holds a secret; in a database's URI a user alone is none."""
    plain = _USER.sub(r"\1", text)
    return shown(plain) != plain or "PRIVATE KEY-----" in plain


def _login(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}:***@" if found[2] is not None else f"{found[1]}***@"
