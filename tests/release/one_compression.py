"""One whole compression in a process of its own, tracked as the pipeline does it and registered as ``eight``."""

import inspect
import json
import sys
from pathlib import Path

from fastprune import tracking
from fastprune.stage_graph import stages_under


def main(uri: str, root: Path, seed: int, experiment: str, source: dict) -> None:
    given = source | {"seed": seed, "num_samples": 40, "keep_ratio": 0.5}
    run, made = tracking.start(uri, f"seed {seed}", {"seed": seed}, experiment=experiment), {}
    assert run
    for stage in stages_under("macs"):
        made |= {name: root / name for name in stage.outputs}
        paths = {name: made[name] for name in stage.inputs + stage.outputs}
        parameters = inspect.signature(stage.run).parameters
        with tracking.stage(uri, run, stage.name) as log:
            log.record(stage.run(**paths, **{name: value for name, value in given.items() if name in parameters}))
    metrics = json.loads((made["report"] / "metrics.json").read_text())
    assert tracking.finish(uri, run, made["report"], made["pruned"], metrics, "eight")["version"]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5]))
