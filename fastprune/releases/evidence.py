"""What is known of a registered version: the figures that a policy judges, its lineage, logits of a few inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fastprune.store.documents import Document

TIMED = 8
"""Rows of the batch by which an export's speed is judged; of a pruned model :mod:`fastprune.manifest` says it."""


class Probe(BaseModel):
    """Inputs and the logits that the model gave for them when it was registered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    texts: list[list[str]]
    logits: list[list[float]]


class Speed(BaseModel):
    """How fast the pruned model is, and where that was measured.

    Attributes
    ----------
    ratio : float
        Latency of the dense model over that of the pruned one.
    spread : (float, float), optional
        The least and the greatest ratio of the quartiles of the times.
    device : str
        Name of the processor or GPU.
    threads : int
        Of torch on a CPU.
    batch_size, seq_len : int
        Of the batch that was timed; of several, the mean length of a row.
    predicted : float, optional
        The ratio by the look-up table.
    predicted_on : str, optional
        The device that the table was measured on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    ratio: float = Field(gt=0)
    spread: tuple[float, float] | None = None
    device: str
    threads: int
    batch_size: int
    seq_len: int
    predicted: float | None = None
    predicted_on: str | None = None

    def __str__(self) -> str:
        spread = f" ({self.spread[0]:.4g} to {self.spread[1]:.4g})" if self.spread else ""
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.ratio:.4g}{spread} on {self.device}{threads}, batch {self.batch_size} of {self.seq_len} tokens"


class Evidence(Document):
    """What is known of a registered version; it travels with the model, and its digest is in the version's tags.

    Attributes
    ----------
    metric, dense, pruned : str, float, float
        The evaluation of the dense and of the pruned model, in the form that is served.
    speedup : float
        Latency of the dense model over that of the pruned one as it is served; None where it was not measured.
    speed : Speed
        On which device, with which batch and how many threads that was, as far as it was recorded.
    standard_error : mapping
        Of ``dense``, of ``pruned``, and of the ``drop`` from one to the other on the same rows.
    outcomes_sha256 : str
        Of the file with the outcome of every evaluation row.
    megabytes : float
        Of the weights that are served.
    lineage : dict
        ``source_sha256``, ``sample_sha256``, ``evaluation_sha256``, ``seed`` and other facts of its manifest; what
        it ``serves`` (``pytorch`` or ``onnx``) and how that is quantised (``quantize``).
    artifact_sha256, weights_sha256, serving_sha256 : str
        Of the artifact's manifest, of the weights as :func:`fastprune.model.checkpoint.digest` has it, and of
        ``pyfunc_model.py``.
    """

    later = frozenset(("speed", "standard_error", "outcomes_sha256"))

    metric: str
    dense: float
    pruned: float
    speedup: float | None
    megabytes: float
    lineage: dict[str, str | int | float | None]
    artifact_sha256: str
    weights_sha256: str
    serving_sha256: str
    probe: Probe
    speed: Speed | None = None
    standard_error: dict[str, float] | None = None
    outcomes_sha256: str | None = None

    @property
    def serves(self) -> str:
        """The form in which the version is served; before 0.2.0 there was but one."""
        return str(self.lineage.get("serves", "pytorch"))

    @property
    def judged(self) -> str:
        """The name of what is served among the :class:`~fastprune.data.outcomes.Outcomes` of the rows."""
        return "exported" if self.serves == "onnx" else "pruned"


def figures_of(metrics: Mapping, serves: str = "pytorch") -> dict[str, Any]:
    """Of a ``metrics.json`` the fields of :class:`Evidence`: accuracy, its standard errors, speed.

    Parameters
    ----------
    serves : {"pytorch", "onnx"}
        Of which form.

    Raises
    ------
    AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError
        A figure is missing or none.
    """
    if serves == "onnx":
        return _figures_of_export(metrics)
    latency = metrics.get("latency_ms")
    return {
        "metric": metrics["metric"],
        "dense": metrics["dense"],
        "pruned": metrics["pruned"],
        "speedup": latency["dense"] / latency["pruned"] if latency else None,
        "speed": _speed(latency) if latency and "device_name" in latency else None,
        "standard_error": _known(metrics.get("standard_error", {})),
    }


def numbers_of(evidence: Evidence) -> dict[str, float]:
    """The figures that MLflow shows as metrics of a version, by the names that they have in ``metrics.json``."""
    errors = evidence.standard_error or {}
    found = {"dense": evidence.dense, "speedup": evidence.speedup, "standard_error.dense": errors.get("dense")}
    if evidence.serves == "onnx":
        found |= {
            "exported.metric": evidence.pruned,
            "exported.megabytes": evidence.megabytes,
            "exported.standard_error": errors.get("pruned"),
            "exported.standard_error_of_drop": errors.get("drop"),
        }
    else:
        found |= {
            "pruned": evidence.pruned,
            "megabytes": evidence.megabytes,
            "standard_error.pruned": errors.get("pruned"),
            "standard_error.drop": errors.get("drop"),
        }
    return {name: float(value) for name, value in found.items() if value is not None}


def _figures_of_export(metrics: Mapping) -> dict[str, Any]:
    exported = metrics["exported"]
    times = exported["latency_ms"][f"batch_{TIMED}"]
    ratio = times["dense"] / times["exported"]
    return {
        "metric": metrics["metric"],
        "dense": metrics["dense"],
        "pruned": exported["metric"],
        "speedup": ratio,
        "speed": Speed(
            ratio=ratio,
            device=exported["device_name"],
            threads=exported["threads"],
            batch_size=TIMED,
            seq_len=exported["seq_len"],
        ),
        "standard_error": _known(
            {
                "dense": metrics.get("standard_error", {}).get("dense"),
                "pruned": exported["standard_error"],
                "drop": exported["standard_error_of_drop"],
            }
        ),
    }


def _known(errors: Mapping) -> dict[str, float] | None:
    return {name: error for name, error in errors.items() if error is not None} or None


def _speed(latency: Mapping) -> Speed:
    (dense_low, dense_high), (low, high) = latency["spread"]["dense"], latency["spread"]["pruned"]
    table = latency.get("table", {})
    return Speed(
        ratio=latency["dense"] / latency["pruned"],
        spread=(dense_low / high, dense_high / low),
        device=latency["device_name"],
        threads=latency["threads"],
        batch_size=latency["batch_size"],
        seq_len=latency["seq_len"],
        predicted=latency["predicted_dense"] / latency["predicted_pruned"] if table else None,
        predicted_on=table.get("device"),
    )
