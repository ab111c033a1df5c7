"""Passwords, tokens and signatures kept out of what is said: the one place where they are masked."""

from __future__ import annotations

import re

# `user:password@` and a bare `token@`. A password may itself hold `@` or `/`: up to the last `@` of the word.
_LOGIN = re.compile(r"(://)(?:([^\s:/@'\"]*):[^\s'\"]*|[^\s/:@'\"?#]+)@")
_FIELD = re.compile(
    r"\b([\w-]*(?:password|passwd|pwd|secret|token|sig|signature|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?))"
    r"(\s*[=:]\s*)(?!//)('[^']*'|\"[^\"]*\"|[^\s&'\",;)]+)",
    re.IGNORECASE,
)


def shown(text: object) -> str:
    """A URI, or the text of a library's exception, without the secrets in it.

    Masked are ``user:password@``, ``token@``, and values of what is named a password, secret, token, signature, key.
    """

    def login(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}:***@" if found[2] is not None else f"{found[1]}***@"

    return _FIELD.sub(r"\1\2***", _LOGIN.sub(login, str(text)))
