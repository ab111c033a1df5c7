"""What a compression is told: its budget and its method. No torch here: Airflow and the command line read it.

The same two dataclasses serve :func:`fastprune.compress`, the command line and the configuration file, so that each
refuses the same things with the same words.
"""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from fastprune.errors import InputError

Constraint = Literal["macs", "latency"]
"""What a budget is a fraction of."""

Solver = Literal["exact", "piecewise"]
"""Of the search under latency, see :func:`fastprune.latency.search.search_latency`."""

Layout = Literal["free", "portable"]
"""Of the pruned model: layers of any sizes, or those that the source's own class of transformers can have."""

Estimator = Literal["per_sample", "per_batch"]
"""Of the Fisher information, see :func:`fastprune.importance.fisher.estimate_fisher`."""

Precision = Literal["float32", "float16", "bfloat16"]
"""Of a look-up table: what the model will be served in."""

Effort = Literal["default", "low"]
"""From how many examples."""

SAMPLES = {"default": 2048, "low": 512}
"""Examples of the sample by effort, where their number is not given and they have not too many tokens."""

Glue = Literal[
    "cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "mnli_mismatched", "qnli", "rte", "wnli", "squad", "squad_v2"
]
"""Tasks that bring their data, columns and metric, see :func:`fastprune.data.glue_task`."""

POOLINGS = ("mean", "cls", "max")
"""How an embedding model makes one vector of those of its tokens."""

AGREEMENT = "agreement"
"""The metric of every problem that reads no labels: how often a model answers as the dense one does."""

RANKINGS = ("ndcg_at_10", "mrr_at_10", "recall_at_10", "recall_at_1")
"""Metrics of rows that each have a query and a passage."""

COSINE_TO_DENSE = "cosine_to_dense"
"""Metric of texts that have no labels at all: the mean cosine of their vectors to the dense model's."""

UNLABELLED = (AGREEMENT, COSINE_TO_DENSE)
"""Metrics that read no labels, for which a part of the texts may be the evaluation."""

BATCH_TOKENS = 1 << 18
"""Tokens of the batch that a look-up table is measured on, at most: examples times their length."""

THREADS = 1024
"""Threads of torch, at most: a number beyond what the machine can start ends the program."""


def _modules(*folder: str) -> tuple[str, ...]:
    modules = pkgutil.iter_modules([str(Path(__file__).parent.joinpath(*folder))])
    return tuple(sorted(module.name for module in modules if not module.ispkg))


def _metrics(problem: str) -> tuple[str, ...]:
    """Those that the class in a problem's file names, read without running the file: that takes torch."""
    tree = ast.parse(Path(__file__).parent.joinpath("problems", f"{problem}.py").read_text(encoding="utf-8"))
    fields = (field for kind in tree.body if isinstance(kind, ast.ClassDef) for field in kind.body)
    given = (field for field in fields if isinstance(field, ast.Assign) and ast.unparse(field.targets[0]) == "metrics")
    return ast.literal_eval(next(given).value)


METRICS = {problem.replace("_", "-"): _metrics(problem) for problem in _modules("problems")}
"""What a model of each problem may be judged by; the first is what it is judged by where nothing is said.

A problem is a file of :mod:`fastprune.problems`.
"""


def own_problems() -> dict[str, EntryPoint]:
    """The problems that installed packages bring, by name: the entry points ``fastprune.problems``, not loaded.

    Raises
    ------
    InputError
        One has the name of another, or of one of fastprune's own.
    """
    own: dict[str, EntryPoint] = {}
    for point in entry_points(group="fastprune.problems"):
        if point.name in METRICS or own.get(point.name, point).value != point.value:
            raise InputError(
                f"the problem {point.name!r} of {point.value} has the name of another problem; rename its entry point"
            )
        own[point.name] = point
    return own


def check_problem(problem: str, metric: str = "") -> None:
    """Raise InputError for a problem that nobody brings, or a metric that is not one of its, as far as is known."""
    if problem and problem not in METRICS:
        own = own_problems()
        if problem not in own:
            raise InputError(
                f"unknown problem {problem!r}; use one of {', '.join([*METRICS, *own])}, or install the package that "
                "brings it"
            )
        return  # its metrics are known where it can be loaded
    known = METRICS[problem] if problem else tuple(dict.fromkeys(name for names in METRICS.values() for name in names))
    known = (*known, AGREEMENT)
    if metric and metric not in known:
        raise InputError(f"metric {metric!r} is not known; use one of {', '.join(known)}")


SELECTIONS = _modules("importance", "selections")
"""What makes a unit important: each is a file of :mod:`fastprune.importance.selections`."""

TUNINGS = _modules("tuning", "methods")
"""How a pruned model makes up for what it lost: each is a file of :mod:`fastprune.tuning.methods`."""

OLD_NAMES = {"fisher": "estimator", "fisher_shards": "importance_shards"}
"""Names of version 0.1.0 that have changed."""


@dataclass(frozen=True)
class Budget:
    """How small the model is to be: exactly one of ``keep_ratio``, ``latency_ms`` and ``max_accuracy_drop``.

    Attributes
    ----------
    keep_ratio : float, optional
        Fraction of the dense model's MACs (or predicted latency) to keep, in (0, 1).
    latency_ms : float, optional
        Milliseconds of the look-up table's batch.
    max_accuracy_drop : float, optional
        Find the smallest keep ratio whose metric on the validation rows is at most this much below the dense model's,
        an absolute difference in [0, 1).
    constraint : {"macs", "latency"}
        What the budget limits; ``latency_ms`` is always latency.
    confidence : float, optional
        With ``max_accuracy_drop``, in [0.5, 1): how sure it must be that new rows too lose no more. The upper end of
        the interval of the paired loss is held against the drop then, not the loss that was measured: the smallest
        ratio that passes by what was measured is also the luckiest.

    Raises
    ------
    InputError
        None or several of the three are given, or one is out of its range.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    keep_ratio: float | None = None
    constraint: Constraint | None = None
    latency_ms: float | None = None
    max_accuracy_drop: float | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in _SIZES if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                "give one of keep_ratio, latency_ms and max_accuracy_drop; "
                + (f"here are {' and '.join(given)}" if given else "here is none")
            )
        [name], value = given, getattr(self, given[0])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{name} is a number; got {value!r}")
        if self.keep_ratio is not None and not 0 < self.keep_ratio < 1:
            raise InputError(
                "keep_ratio is the fraction of MACs or latency that is kept, between 0 and 1 (both excluded); "
                f"got {self.keep_ratio}"
            )
        if self.latency_ms is not None and not 0 < self.latency_ms < float("inf"):
            raise InputError(f"latency_ms is a budget in milliseconds, above 0; got {self.latency_ms}")
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop < 1:
            raise InputError(
                "max_accuracy_drop is an absolute difference of the metric, from 0 up to 1; "
                f"got {self.max_accuracy_drop}"
            )
        if self.confidence is not None:
            if self.max_accuracy_drop is None:
                raise InputError("confidence goes with max_accuracy_drop; give that, or leave confidence out")
            if isinstance(self.confidence, bool) or not 0.5 <= self.confidence < 1:
                raise InputError(f"confidence is from 0.5 up to 1 (excluded); got {self.confidence}")
        if self.constraint is None:
            object.__setattr__(self, "constraint", "macs" if self.latency_ms is None else "latency")
        _check_choice("constraint", self.constraint, get_args(Constraint))
        if self.latency_ms is not None and self.constraint != "latency":
            raise InputError("latency_ms goes with constraint latency; leave constraint out")

    def check_table(self, has_table: bool) -> None:
        """Raise InputError unless there is a look-up table exactly where the budget is latency."""
        if self.constraint == "latency" and not has_table:
            raise InputError("constraint latency needs a look-up table: give --lut (make one with `fastprune profile`)")
        if self.constraint == "macs" and has_table:
            raise InputError("a look-up table goes with constraint latency; leave it out under MACs")

    @property
    def label(self) -> str:
        """Such as ``macs-0-6``; unique within a sweep."""
        if self.latency_ms is not None:
            text = f"{self.latency_ms:g}ms"
        elif self.max_accuracy_drop is not None:
            sure = "" if self.confidence is None else f"-sure-{self.confidence:g}"
            text = f"{self.constraint}-drop-{self.max_accuracy_drop:g}{sure}"
        else:
            text = f"{self.constraint}-{self.keep_ratio:g}"
        return re.sub(r"[^a-z0-9]+", "-", text)

    @property
    def settings(self) -> dict[str, Any]:
        """What was given, and the constraint: the arguments that make this budget again."""
        return {name: value for name, value in asdict(self).items() if value is not None}


_SIZES = ("keep_ratio", "latency_ms", "max_accuracy_drop")


@dataclass(frozen=True)
class Method:
    """How a model is pruned.

    Attributes
    ----------
    selection : str
        What makes a unit important: ``surgeon``, what its removal costs after compensation (reads no labels), or
        ``fisher``, the paper's Fisher information with rearrangement (sections 3.2 and 3.3).
    estimator : {"per_sample", "per_batch"}
        Of the Fisher: the gradients of examples, or of mini-batches as published.
    tuning : str
        ``weights`` solves for every kept linear map as a whole, ``mask`` is the paper's mask tuning (section 3.4),
        ``none`` only cuts.
    solver : {"exact", "piecewise"}
        Of a latency budget: on the table itself, or on the paper's piece-wise linear fit.
    effort : {"default", "low"}
        ``low`` draws a quarter of the examples where their number is not given, and takes the removal costs from half
        as many.
    layout : {"free", "portable"}
        ``free`` keeps any heads and filters of each layer. ``portable`` removes layers whole and keeps all heads and
        one number of filters in the others, so that the model is a plain one of its architecture, which any program
        loads without fastprune's modelling code.

    Raises
    ------
    InputError
        A name that is not known, or a layout that the tuning or the solver is not for.
    """

    selection: str = "surgeon"
    estimator: Estimator = "per_sample"
    tuning: str = "weights"
    solver: Solver = "exact"
    effort: Effort = "default"
    layout: Layout = "free"

    def __post_init__(self) -> None:
        _check_choice("selection", self.selection, SELECTIONS)
        _check_choice("estimator", self.estimator, get_args(Estimator))
        _check_choice("tuning", self.tuning, TUNINGS)
        _check_choice("solver", self.solver, get_args(Solver))
        _check_choice("effort", self.effort, get_args(Effort))
        _check_choice("layout", self.layout, get_args(Layout))
        if self.layout == "portable" and self.tuning == "mask":
            raise InputError(
                "tuning mask scales heads and filters, and layout portable removes layers whole, for which no scale "
                "makes up; use tuning weights or none, or layout free"
            )
        if self.layout == "portable" and self.solver == "piecewise":
            raise InputError(
                "solver piecewise searches heads and filters one by one, and layout portable is searched as a whole; "
                "leave the solver out, or use layout free"
            )


def settings_of(budget: Budget | None, method: Method | None, given: Mapping[str, Any]) -> tuple[Budget, Method]:
    """The budget and the method of a call that may give their fields by name instead.

    Raises
    ------
    InputError
        An unknown name, or a field beside the object that holds it.
    """
    own = {Budget: {field.name for field in fields(Budget)}, Method: {field.name for field in fields(Method)}}
    given = {OLD_NAMES.get(name, name): value for name, value in given.items()}
    if unknown := sorted(given.keys() - own[Budget] - own[Method]):
        raise InputError(
            f"{unknown[0]} is not a setting; a budget has {', '.join(sorted(own[Budget]))}, "
            f"a method {', '.join(sorted(own[Method]))}"
        )
    loose = {kind: {key: given[key] for key in given if key in own[kind] and given[key] is not None} for kind in own}
    for kind, whole, name in ((Budget, budget, "budget"), (Method, method, "method")):
        if whole is not None and loose[kind]:
            raise InputError(f"{next(iter(loose[kind]))} is given beside {name}, which holds it; give it there alone")
        if whole is not None and not isinstance(whole, kind):
            raise InputError(f"{name} is a fastprune.{kind.__name__}; got {whole!r}")
    return budget or Budget(**loose[Budget]), method or Method(**loose[Method])


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} {value!r} is not known; use one of {', '.join(known)}")
