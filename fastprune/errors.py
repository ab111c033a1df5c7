"""The errors that say what is wrong in what was given, and not in the program."""

from __future__ import annotations

import re

from fastprune.store.secrets import without_logins

_SHOWN = 1500
"""Characters of each end of a message: the names and values in it may be of any length."""

_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What names and values may hold and no terminal should be given: its own commands, and halves of characters."""


class InputError(ValueError):
    """Bad input: the message names the file, field or shape at fault and the remedy.

    The command line prints it without a traceback and exits with ``exit_code``. Passwords in URIs are masked.
    """

    exit_code = 2

    def __init__(self, message: object = ""):
        text = _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), without_logins(str(message)))
        if len(text) > 2 * _SHOWN:  # what is at fault stands first, and the remedy last
            text = f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"
        super().__init__(text)


class Refused(InputError):
    """What was asked is well said, but may not be: a policy, a right or somebody else's change stands against it."""

    exit_code = 3


class Unreachable(InputError):
    """A server or a store that is needed does not answer; trying again later may do."""

    exit_code = 4


def with_remedy(error: InputError, remedy: str) -> InputError:
    """An error of the same exit status that also says what to do."""
    kind = next(kind for kind in (Unreachable, Refused, InputError) if isinstance(error, kind))
    return kind(f"{error}\n{remedy}")


class PipelineError(RuntimeError):
    """A step of a local run failed; the message names it and ends with what it said last."""


EXTRAS = {
    "pipeline": ("kfp", "kfp_server_api", "urllib3", "google"),
    "mlflow": ("cryptography", "mlflow", "pandas", "psutil", "requests", "sqlalchemy"),
    "s3": ("boto3", "botocore"),
    "postgresql": ("psycopg",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "report": ("jinja2", "markupsafe", "matplotlib"),
}
"""What each extra of the package brings, by the names of the modules."""


def lacks_extra(error: ModuleNotFoundError) -> InputError | None:
    """The refusal that names the extra of a module that is not installed; None for a module of no extra."""
    module = (error.name or "").split(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return InputError(f"this needs {module}, which is not installed: pip install 'fastprune[{extra}]'")
    return None
