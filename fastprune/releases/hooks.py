"""Telling others what became of a release: a command or a URL of the user's, called at every event of a record.

``FASTPRUNE_HOOK`` is the URL, or the command with its arguments; ``FASTPRUNE_HOOK_SECRET`` signs what a URL is sent. A
hook that fails costs a warning, never the release.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import shlex
import subprocess
from collections.abc import Mapping

HOOK, SECRET = "FASTPRUNE_HOOK", "FASTPRUNE_HOOK_SECRET"

SECONDS = 15
"""That a hook may take."""

_log = logging.getLogger(__name__)


def tell(action: str, content: Mapping) -> None:
    """Call the hook, if there is one.

    A URL gets a POST of JSON; with a secret the header ``X-Fastprune-Signature`` has its HMAC-SHA256, in hexadecimal. A
    command gets the same JSON on its standard input, and the action as its last argument.

    Parameters
    ----------
    action : str
        ``promote``, ``rollback``, ``refused``, ``failed`` and so on: also the key ``action`` of the JSON.
    content : mapping
        What else is told.
    """
    hook = os.environ.get(HOOK, "").strip()
    if not hook:
        return
    body = json.dumps({"action": action, **content}).encode()
    try:
        if hook.startswith(("http://", "https://")):
            _post(hook, body)
        else:
            subprocess.run(
                [*shlex.split(hook), action], input=body, timeout=SECONDS, check=True, stdout=subprocess.DEVNULL
            )
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # requests' errors are OSErrors
        _log.warning("%s was not told of %s (%s)", HOOK, action, _why(error))


def _why(error: Exception) -> str:
    """What went wrong, without the command or the address: either may hold a secret, as a chat's webhook does."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit status {error.returncode}"
    response = getattr(error, "response", None)
    return type(error).__name__ if response is None else f"HTTP status {response.status_code}"


def _post(url: str, body: bytes) -> None:
    import requests

    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get(SECRET, ""):
        headers["X-Fastprune-Signature"] = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    requests.post(url, data=body, headers=headers, timeout=SECONDS, allow_redirects=False).raise_for_status()
