"""A stage that makes a few numbers."""

import json

from fastprune.store.artifacts import makes

_CALLS = []


def numbers(folder, seed=0, count=4, calls=None):
    """A stage without inputs, in place of ``prepare``."""
    before = len(_CALLS)
    record = _numbers(searched=folder, seed=seed, count=count)
    if calls is not None:
        calls += _CALLS[before:]
    return record


@makes(searched=("seed", "sample_sha256"))
def _numbers(*, searched, seed, count):
    _CALLS.append(searched)
    searched.mkdir()
    (searched / "numbers.txt").write_text(f"{seed}\n" * count)
    record = {
        "stage": "numbers",
        "seconds": 0.0,
        "settings": {"seed": seed, "sample_sha256": f"of {seed}"},
        "metrics": {"call": len(_CALLS)},
    }
    (searched / "stage.json").write_text(json.dumps(record))
    return record
