"""What other users of this machine find: functions run under their number, their groups and their umask."""

import json
import os
import traceback

import pytest

from fastprune.errors import InputError

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")

ALICE, BOB, TEAM = 61_001, 61_002, 61_100
"""Numbers that nobody has; the first two are users."""


def as_user(function, user, *, umask=0o022, groups=()):
    """What a function returns (JSON), or the text of its InputError, in a process of another user."""
    read, write = os.pipe()
    if (process := os.fork()) == 0:
        try:
            if user != os.getuid():
                os.setgroups(list(groups))
                os.setgid(user)
                os.setuid(user)
            os.umask(umask)
            answer = {"returned": function()}
        except InputError as error:
            answer = {"refused": str(error)}
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        finally:
            os.write(write, json.dumps(answer).encode())
            os._exit(0)
    os.close(write)
    with open(read, "rb") as told:
        answer = json.loads(told.read())
    os.waitpid(process, 0)
    assert "failed" not in answer, answer["failed"]
    return answer.get("refused", answer.get("returned"))
