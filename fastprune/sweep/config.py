"""The file that a team writes: models, budgets, and how and where to run them.

One file describes a compression or a sweep of many, and is the same on a laptop, on Kubeflow and under Airflow. This
module and :mod:`fastprune.sweep.graph` import no torch: Airflow's environment has none.
"""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fastprune.errors import InputError
from fastprune.settings import (
    BATCH_TOKENS,
    OLD_NAMES,
    POOLINGS,
    RANKINGS,
    SELECTIONS,
    TUNINGS,
    UNLABELLED,
    Budget,
    Effort,
    Estimator,
    Glue,
    Layout,
    Method,
    Precision,
    Solver,
    check_problem,
)
from fastprune.sweep.cron import check_cron
from fastprune.sweep.stages import ACTING, CONCLUDES, STAGES

_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
# YAML reads `cpu: 2` and `SIZE: 2` as numbers; Kubernetes wants them as text.
_Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]
_Given = Annotated[str, Field(min_length=1)]
_Cpu = Annotated[_Text, Field(pattern=r"^\d+(\.\d+)?m?$")]
_Memory = Annotated[_Text, Field(pattern=r"^\d+(\.\d+)?(Ki|Mi|Gi|Ti|K|M|G|T)?$")]

_MOST = 2**31 - 1
"""Of every whole number: one that Kubeflow, Kubernetes and torch all hold."""


class Section(BaseModel):
    """A mapping in the file: unknown keys are refused, and a key of an older version with what it is called now."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_of_this_version(cls, given: object) -> object:
        for name in given if isinstance(given, dict) else ():
            if name in OLD_NAMES:
                raise ValueError(f"{name}: is called {OLD_NAMES[name]} since version 0.2.0; rename it")
        return given


class Model(Section):
    """A fine-tuned model and its data: a GLUE task or ``squad``, or files with their columns.

    ``problem`` is what the model is asked, by default what its configuration tells. ``validation_file`` has the rows on
    which a ``max_accuracy_drop`` is measured; without it a fifth of the training rows is set apart, which overstates
    the loss where the model was fine-tuned on them.
    """

    name: _Name
    source: _Given
    task: Glue | None = None
    train_file: str = ""
    eval_file: str = ""
    validation_file: str = ""
    text_columns: list[_Given] = Field([], max_length=3)
    label_column: str = ""
    problem: str = ""
    metric: str = ""
    pooling: Literal[("", *POOLINGS)] = ""  # type: ignore[valid-type]
    max_length: int = Field(0, ge=0, le=_MOST)

    @model_validator(mode="after")
    def _is_of_a_known_problem(self) -> Model:
        for name, problem, metric in (("problem", self.problem, ""), ("metric", self.problem, self.metric)):
            try:
                check_problem(problem, metric)
            except InputError as error:
                raise ValueError(f"{name}: {error}") from error
        return self

    @model_validator(mode="after")
    def _has_data(self) -> Model:
        likeness = self.metric in UNLABELLED
        labels = self.label_column or self.metric in RANKINGS or likeness
        own = (self.train_file, self.eval_file or likeness, self.text_columns, labels)
        given = (self.train_file, self.eval_file, self.text_columns, self.label_column)
        if self.task and any((*given, self.problem, self.metric, self.pooling, self.max_length)):
            raise ValueError("task brings its own data, columns, problem, metric and length: leave those keys out")
        if not self.task and not all(own):
            raise ValueError("no data: give task, or all of train_file, eval_file, text_columns and label_column")
        return self


class Latency(Section):
    """The look-up table of a latency budget: ``lut``, or one of ``lut_store``, or measured by the profiler.

    ``dtype`` is the precision that the pruned model will be served in. It is measured, and timed beside the dense one,
    in that.
    """

    lut: str = ""
    lut_store: str = ""
    batch_size: int = Field(8, ge=1)
    seq_len: int = Field(64, ge=1)
    dtype: Precision = "float32"
    solver: Solver = "exact"

    @model_validator(mode="after")
    def _can_be_measured(self) -> Latency:
        if self.batch_size * self.seq_len > BATCH_TOKENS:
            raise ValueError(
                f"batch_size times seq_len is {self.batch_size * self.seq_len} tokens; at most {BATCH_TOKENS} are "
                "measured at once"
            )
        return self


class Tracking(Section):
    """MLflow; an empty ``uri`` is that of ``MLFLOW_TRACKING_URI``."""

    uri: str = ""
    experiment: str = "fastprune"


class Release(Section):
    """Registered models are named ``model_name``, or ``<sweep>-<model>``; ``policy`` is a file, and promotes.

    Attributes
    ----------
    required : bool
        A model of which the policy accepts nothing, or that cannot be promoted, fails the run.
    tags : dict
        Of every version that is registered, such as those that the policy requires.
    """

    model_name: str = Field("", pattern=r"^[^/:]*$")
    policy: str = ""
    required: bool = False
    tags: dict[str, _Text] = {}

    @model_validator(mode="after")
    def _has_a_policy(self) -> Release:
        if self.required and not self.policy:
            raise ValueError("required: there is no policy that could promote; give policy, a file")
        return self


class Export(Section):
    """Every pruned model is also written as a runtime serves it, and judged as a candidate of its own."""

    format: Literal["onnx", "openvino"] = "onnx"
    quantize: Literal["", "int8", "fp16"] = ""


class Schedule(Section):
    """When the pipeline runs by itself; ``cron`` has six fields, seconds first, in UTC."""

    cron: Annotated[str, AfterValidator(check_cron)]
    max_concurrency: int = Field(1, ge=1, le=10)
    catchup: bool = False
    enabled: bool = True


class Toleration(Section):
    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: _Text = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class Accelerator(Section):
    """Devices that a task asks for, and the nodes that have them."""

    resource: _Given
    count: int = Field(1, ge=1, le=_MOST)
    node_selector: dict[str, _Text] = {}
    tolerations: list[Toleration] = []


class Secret(Section):
    """A Kubernetes secret; ``env`` maps its keys to environment variables."""

    name: _Given
    env: dict[str, str] = Field(min_length=1)


class TaskSettings(Section):
    """What one task gets; what a stage's entry leaves out is as in ``default``.

    ``caching``, Kubeflow's, is left off for stages that open or change MLflow runs.
    """

    cpu: _Cpu | None = None
    memory: _Memory | None = None
    retries: int = Field(0, ge=0, le=_MOST)
    caching: bool = False
    timeout_s: int | None = Field(None, ge=1, le=_MOST)
    accelerator: str | None = None


class Cluster(Section):
    """What Kubernetes is told; a local run reads none of it."""

    image: str = ""
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    secrets: list[Secret] = []
    env: dict[str, _Text] = {}
    accelerators: dict[str, Accelerator] = {}
    stages: dict[Literal[("default", *(stage.name for stage in STAGES))], TaskSettings] = {}  # type: ignore[valid-type]
    parallelism: int = Field(1, ge=1, le=_MOST)

    @model_validator(mode="after")
    def _accelerators_are_known(self) -> Cluster:
        for stage, settings in self.stages.items():
            if settings.accelerator and settings.accelerator not in self.accelerators:
                raise ValueError(
                    f"stages.{stage}.accelerator: {settings.accelerator!r} is not among the accelerators: "
                    f"{', '.join(self.accelerators) or 'there are none'}"
                )
        return self


class Sweep(Section):
    """Every model under every budget.

    Attributes
    ----------
    importance_shards : int
        The importance is measured in this number of parts of the sample, side by side.
    processes : int
        That share the importance (where it is in one part) and every tuning, within the task.
    cluster.parallelism : int
        How many budgets (or shards) of a model run side by side.
    """

    name: _Name
    models: list[Model] = Field(min_length=1)
    budgets: list[Budget] = Field(min_length=1)
    num_samples: int | None = Field(None, ge=1, le=_MOST)
    seed: int = Field(0, ge=0, le=_MOST)
    selection: Literal[SELECTIONS] = "surgeon"  # type: ignore[valid-type]
    estimator: Estimator = "per_sample"
    tuning: Literal[TUNINGS] = "weights"  # type: ignore[valid-type]
    effort: Effort = "default"
    layout: Layout = "free"
    batch_size: int = Field(32, ge=1, le=_MOST)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    allow_untuned: bool = False
    importance_shards: int = Field(1, ge=1, le=64)
    processes: int = Field(1, ge=1, le=64)
    latency: Latency = Latency()
    tracking: Tracking = Tracking()
    export: Export | None = None
    release: Release = Release()
    schedule: Schedule | None = None
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _is_consistent(self) -> Sweep:
        for what, names in (
            ("models", [model.name for model in self.models]),
            ("budgets", [budget.label for budget in self.budgets]),
        ):
            for index, name in enumerate(names):
                if name in names[:index]:
                    raise ValueError(f"{what}.{index}: a second one of {what} is {name}; each once")
        if len(self.models) > 1 and self.release.model_name:
            raise ValueError(
                "release.model_name: with several models each is registered as <sweep>-<model>; leave it out"
            )
        try:
            Method(self.selection, self.estimator, self.tuning, self.latency.solver, layout=self.layout)
        except InputError as error:
            raise ValueError(f"layout: {error}") from error
        if "latency" in self.model_fields_set and not self.has_latency:
            raise ValueError("latency: no budget has constraint: latency")
        for index, model in enumerate(self.models):
            if model.validation_file and not self.has_accuracy_drop:
                raise ValueError(
                    f"models.{index}.validation_file: no budget is a max_accuracy_drop, which alone is measured on it"
                )
        return self

    @property
    def has_latency(self) -> bool:
        return any(budget.constraint == "latency" for budget in self.budgets)

    @property
    def has_accuracy_drop(self) -> bool:
        return any(budget.max_accuracy_drop is not None for budget in self.budgets)

    def model_name(self, model: Model) -> str:
        """The registered model that a model's versions go to."""
        return self.release.model_name or f"{self.name}-{model.name}"

    def task_settings(self, stage: str) -> TaskSettings:
        """Of the tasks of a stage."""
        given = [self.cluster.stages[name] for name in ("default", stage) if name in self.cluster.stages]
        merged: dict = {}
        for settings in given:
            merged |= settings.model_dump(exclude_unset=True)
        if stage in ACTING:
            merged["caching"] = False
        if stage == CONCLUDES:
            merged["retries"] = 0
        return TaskSettings(**merged)

    def accelerator(self, stage: str) -> Accelerator | None:
        """What the tasks of a stage ask for."""
        name = self.task_settings(stage).accelerator
        return self.cluster.accelerators[name] if name else None

    def to_yaml(self) -> str:
        """The same configuration as a file of its own: paths absolute, the policy's content in place of its file."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
