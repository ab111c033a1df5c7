"""The named alternatives of the method's settings, for what must know them without importing torch."""

from typing import Literal

Kind = Literal["macs", "latency"]
"""What a budget is a fraction of."""

Solver = Literal["exact", "piecewise"]
"""Of the search under latency, see :func:`fastprune.latency.search.search_latency`."""

Selection = Literal["surgeon", "fisher"]
"""What makes a unit important, see :func:`fastprune.compress`."""

Estimator = Literal["per_sample", "per_batch"]
"""Of the Fisher information, see :func:`fastprune.importance.fisher.estimate_fisher`."""

Tuning = Literal["weights", "mask", "none"]
"""How a pruned model makes up for what it lost, see :func:`fastprune.compress`."""

Glue = Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "squad"]
"""Tasks that bring their data, columns and metric, see :func:`fastprune.data.glue_task`."""

NO_DROP = -1.0
"""As ``max_accuracy_drop``: there is none, the keep ratio is the one given."""
