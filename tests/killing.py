"""A stand-in for the kernel's out-of-memory killer: it ends the process that tunes one of a sweep's compressions."""

SCRIPT = """\
import contextlib
import os
import signal

with contextlib.suppress(ImportError):  # Airflow's own interpreter has no torch
    from fastprune import method

    tune = method.tune

    def killed(encoder, masks, importance, cost, keep_ratio, *rest, **options):
        if keep_ratio == {keep_ratio}:
            os.kill(os.getpid(), signal.SIGKILL)
        return tune(encoder, masks, importance, cost, keep_ratio, *rest, **options)

    method.tune = killed
"""


def kill_at(folder, keep_ratio):
    """The folder, which on PYTHONPATH has every Python that starts killed where it tunes a keep ratio."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SCRIPT.format(keep_ratio=keep_ratio))
    return folder
