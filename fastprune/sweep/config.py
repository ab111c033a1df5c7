"""The file that a team writes: models, budgets, and how and where to run them.

One file describes a compression or a sweep of many, and is the same on a laptop, on Kubeflow and under Airflow. This
module and :mod:`fastprune.sweep.graph` import no torch: Airflow's environment has none.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fastprune.errors import InputError
from fastprune.settings import NO_DROP, Estimator, Glue, Kind, Selection, Solver, Tuning
from fastprune.sweep.cron import check_cron
from fastprune.sweep.graph import ACTING, STAGES

_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
_Ratio = Annotated[float, Field(gt=0, lt=1)]
# YAML reads `cpu: 2` and `SIZE: 2` as numbers; Kubernetes wants them as text.
_Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]
_Cpu = Annotated[_Text, Field(pattern=r"^\d+(\.\d+)?m?$")]
_Memory = Annotated[_Text, Field(pattern=r"^\d+(\.\d+)?(Ki|Mi|Gi|Ti|K|M|G|T)?$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(_Section):
    """A fine-tuned model and its data: a GLUE task or ``squad``, or files with their columns.

    ``validation_file`` has the rows on which a ``max_accuracy_drop`` is measured; without it a fifth of the training
    rows is set apart, which overstates the loss where the model was fine-tuned on them.
    """

    name: _Name
    source: str
    task: Glue | None = None
    train_file: str = ""
    eval_file: str = ""
    validation_file: str = ""
    text_columns: list[str] = Field([], max_length=2)
    label_column: str = ""
    metric: str = ""
    max_length: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _has_data(self) -> Model:
        own = (self.train_file, self.eval_file, self.text_columns, self.label_column)
        if self.task and any((*own, self.metric, self.max_length)):
            raise ValueError("task brings its own data, columns, metric and length: leave those keys out")
        if not self.task and not all(own):
            raise ValueError("no data: give task, or all of train_file, eval_file, text_columns and label_column")
        return self


class Budget(_Section):
    """One of ``keep_ratio``, ``latency_ms`` and ``max_accuracy_drop``."""

    keep_ratio: _Ratio | None = None
    constraint: Kind = "macs"
    latency_ms: float | None = Field(None, gt=0)
    max_accuracy_drop: float | None = Field(None, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _milliseconds_are_latency(cls, given: object) -> object:
        if isinstance(given, dict) and "latency_ms" in given:
            return {"constraint": "latency"} | given
        return given

    @model_validator(mode="after")
    def _is_one(self) -> Budget:
        given = [name for name in ("keep_ratio", "latency_ms", "max_accuracy_drop") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "give one of keep_ratio, latency_ms and max_accuracy_drop; "
                + (f"here are {' and '.join(given)}" if given else "here is none")
            )
        if self.latency_ms and self.constraint != "latency":
            raise ValueError("latency_ms goes with constraint: latency")
        return self

    @property
    def label(self) -> str:
        """Such as ``macs-0-6``; unique within a sweep."""
        if self.latency_ms:
            text = f"{self.latency_ms:g}ms"
        elif self.max_accuracy_drop is not None:
            text = f"{self.constraint}-drop-{self.max_accuracy_drop:g}"
        else:
            text = f"{self.constraint}-{self.keep_ratio:g}"
        return re.sub(r"[^a-z0-9]+", "-", text)

    @property
    def settings(self) -> dict:
        """The arguments of :func:`fastprune.stages.pruning.budget`."""
        return {
            "constraint": self.constraint,
            "keep_ratio": self.keep_ratio or 0.0,
            "latency_ms": self.latency_ms,
            "max_accuracy_drop": NO_DROP if self.max_accuracy_drop is None else self.max_accuracy_drop,
        }


class Latency(_Section):
    """The look-up table of a latency budget: ``lut``, or one of ``lut_store``, or measured by the profiler."""

    lut: str = ""
    lut_store: str = ""
    batch_size: int = Field(8, ge=1)
    seq_len: int = Field(64, ge=1)
    solver: Solver = "exact"


class Tracking(_Section):
    """MLflow; an empty ``uri`` is that of ``MLFLOW_TRACKING_URI``."""

    uri: str = ""
    experiment: str = "fastprune"


class Release(_Section):
    """Registered models are named ``model_name``, or ``<sweep>-<model>``; ``policy`` is a file, and promotes."""

    model_name: str = Field("", pattern=r"^[^/:]*$")
    policy: str = ""


class Schedule(_Section):
    """When the pipeline runs by itself; ``cron`` has six fields, seconds first, in UTC."""

    cron: Annotated[str, AfterValidator(check_cron)]
    max_concurrency: int = Field(1, ge=1, le=10)
    catchup: bool = False
    enabled: bool = True


class Toleration(_Section):
    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: _Text = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class Accelerator(_Section):
    """Devices that a task asks for, and the nodes that have them."""

    resource: str
    count: int = Field(1, ge=1)
    node_selector: dict[str, _Text] = {}
    tolerations: list[Toleration] = []


class Secret(_Section):
    """A Kubernetes secret; ``env`` maps its keys to environment variables."""

    name: str
    env: dict[str, str] = Field(min_length=1)


class TaskSettings(_Section):
    """What one task gets; what a stage's entry leaves out is as in ``default``.

    ``caching``, Kubeflow's, is left off for stages that open or change MLflow runs.
    """

    cpu: _Cpu | None = None
    memory: _Memory | None = None
    retries: int = Field(0, ge=0)
    caching: bool = False
    timeout_s: int | None = Field(None, ge=1)
    accelerator: str | None = None


class Cluster(_Section):
    """What Kubernetes is told; a local run reads none of it."""

    image: str = ""
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    secrets: list[Secret] = []
    env: dict[str, _Text] = {}
    accelerators: dict[str, Accelerator] = {}
    stages: dict[Literal[("default", *(stage.name for stage in STAGES))], TaskSettings] = {}
    parallelism: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _accelerators_are_known(self) -> Cluster:
        for stage, settings in self.stages.items():
            if settings.accelerator and settings.accelerator not in self.accelerators:
                raise ValueError(
                    f"stages.{stage}.accelerator: {settings.accelerator!r} is not among the accelerators: "
                    f"{', '.join(self.accelerators) or 'there are none'}"
                )
        return self


class Sweep(_Section):
    """Every model under every budget.

    Attributes
    ----------
    fisher_shards : int
        The Fisher information of a model is measured in so many parts of its sample, side by side.
    cluster.parallelism : int
        So many budgets (or shards) of a model run side by side.
    """

    name: _Name
    models: list[Model] = Field(min_length=1)
    budgets: list[Budget] = Field(min_length=1)
    num_samples: int = Field(2048, ge=1)
    seed: int = Field(0, ge=0)
    selection: Selection = "surgeon"
    estimator: Estimator = "per_sample"
    tuning: Tuning = "weights"
    batch_size: int = Field(32, ge=1)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    allow_untuned: bool = False
    fisher_shards: int = Field(1, ge=1, le=64)
    latency: Latency = Latency()
    tracking: Tracking = Tracking()
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
        return TaskSettings(**merged)

    def accelerator(self, stage: str) -> Accelerator | None:
        """What the tasks of a stage ask for."""
        name = self.task_settings(stage).accelerator
        return self.cluster.accelerators[name] if name else None

    def to_yaml(self) -> str:
        """The same configuration as a file of its own: paths absolute, the policy's content in place of its file."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def read_config(path: str | Path, *, here: bool = True) -> Sweep:
    """Read a configuration file, with paths in it relative to its folder.

    Parameters
    ----------
    path : str or Path
        YAML.
    here : bool
        It is to run on this machine, so that its local files must exist. Else local paths must be absolute: they
        are taken for mounts of the cluster.

    Returns
    -------
    Sweep
        ``release.policy`` holds the policy's content.

    Raises
    ------
    InputError
        Anything wrong in it: the message names the file, the line and the key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the configuration cannot be read ({error})") from error
    return parse_config(text, path, here=here)


def parse_config(text: str, path: Path, *, here: bool = True) -> Sweep:
    """:func:`read_config` of a file's content."""
    try:
        document, node = yaml.safe_load(text), yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise InputError(f"{where}: not YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: a configuration is a mapping with name, models and budgets")
    try:
        sweep = Sweep.model_validate(document)
    except ValidationError as error:
        raise InputError("\n".join(_explain(problem, path, node) for problem in error.errors())) from error
    return _with_files(sweep, path, node, here)


def _explain(problem: dict, path: Path, node: yaml.Node) -> str:
    loc = [part for part in problem["loc"] if part != "[key]"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and (named := re.match(r"([\w.]+): ", message)):
        loc += [int(part) if part.isdigit() else part for part in named[1].split(".")]
        message = message[named.end() :]
    if problem["type"] == "extra_forbidden":
        known = {key for section in _Section.__subclasses__() for key in section.model_fields}
        close = difflib.get_close_matches(str(loc[-1]), sorted(known), 1)
        message = "unknown key" + (f"; did you mean {close[0]}?" if close else "")
    elif problem["type"] == "missing":
        message = "this key is missing"
    elif problem["type"] != "value_error":
        message += f"; here is {json.dumps(problem['input'], default=str)[:80]}"
    return f"{path}, line {_line(node, loc)}: {'.'.join(map(str, loc)) or 'the configuration'}: {message}"


def _line(node: yaml.Node, loc: list) -> int:
    """The line of a key, or of the nearest section that is there."""
    line = node.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1


def _with_files(sweep: Sweep, path: Path, node: yaml.Node, here: bool) -> Sweep:
    """Resolve the paths, and put the policy's content in the place of its file."""

    def found(value: str, *loc: str | int, hub: bool = False) -> str:
        if not value or value.startswith("s3://"):
            return value
        file = path.parent / value
        where = f"{path}, line {_line(node, list(loc))}: {'.'.join(map(str, loc))}"
        if hub and not value.startswith((".", "/")) and not (here and file.exists()):
            return value
        if here and not file.exists():
            raise InputError(f"{where}: there is no {file}")
        if not here and not Path(value).is_absolute():
            raise InputError(
                f"{where}: {value} is a path on this machine, which the cluster's containers do not have; "
                "use s3://, or the absolute path of a volume that is mounted in them"
            )
        return str(file.resolve()) if here else value

    models = [
        model.model_copy(
            update={
                "source": found(model.source, "models", index, "source", hub=True),
                **{
                    key: found(getattr(model, key), "models", index, key)
                    for key in ("train_file", "eval_file", "validation_file")
                },
            }
        )
        for index, model in enumerate(sweep.models)
    ]
    latency = sweep.latency.model_copy(update={"lut": found(sweep.latency.lut, "latency", "lut")})
    release = sweep.release
    if release.policy and not release.policy.startswith("{"):  # else it has been read
        from fastprune.releases.policy import read_policy

        file = path.parent / release.policy
        if not file.is_file():
            raise InputError(f"{path}, line {_line(node, ['release', 'policy'])}: release.policy: there is no {file}")
        release = release.model_copy(update={"policy": read_policy(file).model_dump_json()})
    return sweep.model_copy(update={"models": models, "latency": latency, "release": release})
