"""Which stages a compression has, in order, and which folders pass between them.

The pipeline definitions are held against this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastprune import stages
from fastprune.constraints import Kind


@dataclass(frozen=True)
class Stage:
    """A stage, and the names of the folders that it reads and makes.

    ``run`` takes each of them as a keyword argument of that name, then its own parameters, and returns what it wrote
    into ``stage.json``. ``table``, of the profiler, is left out under a MAC budget.
    """

    run: Callable[..., dict]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.run.__name__


STAGES = (
    Stage(stages.prepare, (), ("model", "calibration", "evaluation")),
    Stage(stages.evaluate_dense, ("model", "evaluation"), ("dense",)),
    Stage(stages.profile, ("model",), ("table",)),
    Stage(stages.fisher, ("model", "calibration"), ("fisher",)),
    Stage(stages.budget, ("model", "calibration", "fisher", "table"), ("chosen",)),
    Stage(stages.search, ("fisher", "table"), ("searched",)),
    Stage(stages.rearrange, ("fisher", "table", "searched"), ("rearranged",)),
    Stage(stages.tune, ("model", "calibration", "evaluation", "fisher", "table", "rearranged"), ("pruned", "tuned")),
    Stage(stages.evaluate_pruned, ("model", "evaluation", "table", "searched", "rearranged", "pruned"), ("measured",)),
    Stage(stages.report,
          ("model", "dense", "table", "fisher", "chosen", "searched", "rearranged", "pruned", "measured"), ("report",)),
)


def stages_under(constraint: Kind) -> tuple[Stage, ...]:
    """The stages of a compression under a constraint: nothing is profiled under a MAC budget."""
    if constraint == "latency":
        return STAGES
    return tuple(Stage(stage.run, tuple(name for name in stage.inputs if name != "table"), stage.outputs)
                 for stage in STAGES if stage.run is not stages.profile)
