"""How often a task was begun on Kubeflow before this pod: a pod that is killed cannot say so, the next one can.

Argo begins a pod that was killed again, once more than the stage's ``retries``. It writes the name of the pod's node
into an annotation, which the compiled pipeline hands on in ``NODE``; that of a second try ends with ``(1)``. A task
never fails of itself, so what was begun before was killed. The last pod does no more than to put that into its outputs.
"""

from __future__ import annotations

import os
import re

NODE = "FASTPRUNE_ARGO_NODE"
ANNOTATION = "metadata.annotations['workflows.argoproj.io/node-name']"
"""The field of a pod that ``NODE`` has the value of."""


def pods_before() -> int:
    """How many pods of this task came before this one; 0 where there are no pods."""
    found = re.search(r"\((\d{1,4})\)$", os.environ.get(NODE, ""))
    return int(found[1]) if found else 0
