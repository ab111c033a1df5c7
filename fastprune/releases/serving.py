"""The served form of a pruned model: what MLflow gets, which code may be in it, and that it answers as evaluated."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from fastprune.errors import InputError
from fastprune.model import checkpoint, model_inputs
from fastprune.model.tokenizer_files import POINTERS
from fastprune.problem import Problem, problem_of
from fastprune.releases import forms
from fastprune.store import storage
from fastprune.store.s3 import RATE
from fastprune.store.signatures import EXPORTED
from fastprune.tracking import deadlines, mlflow_store

SERVED = Path(__file__).with_name("pyfunc_model.py")
KIND = "fastprune.kind"
"""Tag of a registered model that holds versions of fastprune's."""

_ABOUT = (
    "Models pruned by fastprune. The alias `champion` names the version that is served; `fastprune history` says who "
    "released which, when and why."
)

INPUTS = Path(model_inputs.__file__)

_CODE = {name: Path(checkpoint.__file__).with_name(name) for name in checkpoint.CODE}
_EARLIER = {"01c6e7f6ec9b1ef0e589fd0d7264b48bfce5b6f72f1c2c81e0cb3125a3c23d18"}
"""SHA-256 of ``modeling_fastprune.py`` in earlier versions (0.1.0): what they saved may be registered."""


def check_code(model_dir: Path) -> None:
    """Raise InputError where loading a folder's model would run code that is not fastprune's own."""
    known = {name: {storage.sha256_of(path)} for name, path in _CODE.items()}
    known[checkpoint.CODE[0]] |= _EARLIER
    for path in sorted(model_dir.rglob("*.py")):
        if path.parent != model_dir or storage.sha256_of(path) not in known.get(path.name, ()):
            raise InputError(
                f"{path}: code that is not of fastprune's own, which serving the model would run; remove it, or "
                "prune the model again"
            )
    for name in ("config.json", "tokenizer_config.json"):
        file = model_dir / EXPORTED / name
        if file.is_file() and checkpoint.read_object(file).get("auto_map"):
            raise InputError(f"{file}: auto_map names code, and an export has none; export the model again")
    named = checkpoint.read_object(model_dir / "config.json").get("auto_map") or {}
    for auto, name in named.items() if isinstance(named, dict) else [("auto_map", named)]:
        if not (isinstance(name, str) and name.startswith(f"{Path(checkpoint.CODE[0]).stem}.Pruned")):
            raise InputError(
                f"{model_dir / 'config.json'}: auto_map has {auto} run {name!r}, which is not of fastprune's own "
                f"{checkpoint.CODE[0]}; prune the model again"
            )
    for file in sorted([*model_dir.glob("*config.json"), *(model_dir / EXPORTED).glob("*_config.json")]):
        settings = checkpoint.read_object(file)
        for pointer in POINTERS:
            if settings.get(pointer) and (file.name, pointer) != ("config.json", "auto_map"):
                raise InputError(f"{file}: {pointer} names code that is not fastprune's own; remove it from the file")


def logits(model, tokenizer, texts: Sequence[Sequence[str]], manifest: Mapping) -> list[list[float]]:
    """What a model puts out for each row of texts, one row at a time, by the inputs of its evaluation."""
    import torch

    problem, max_length = problem_of(manifest["problem"]), manifest["max_length"]
    with torch.inference_mode():
        return [problem.row_outputs(model, tokenizer, row, max_length).flatten().tolist() for row in texts]


def settings_of(manifest: Mapping, serves: str) -> dict[str, Any]:
    """What a served model is told: what its texts are, and which form of it answers."""
    columns = problem_of(manifest["problem"]).served(manifest["text_columns"])
    told = {"problem": manifest["problem"], "text_columns": columns, "max_length": manifest["max_length"]}
    return told | {forms.SERVES: serves}


def check_answers(
    model, model_dir: Path, manifest: Mapping, texts: Sequence[Sequence[str]], serves: str = forms.PYTORCH
) -> None:
    """Raise InputError where a batch of unlike lengths is served other answers than the model was evaluated with.

    To ``texts`` come rows of other lengths, see :meth:`Problem.unlike`. A quantised model's answer depends a little on
    the rest of its batch, so that its rows are served one by one.
    """
    import pandas

    from fastprune.releases.pyfunc_model import PrunedModel

    problem = problem_of(manifest["problem"])
    texts = [*texts, *problem.unlike(texts[0])]
    served = PrunedModel()
    settings = settings_of(manifest, serves)
    served.load_context(SimpleNamespace(artifacts=artifacts_of(model_dir, problem), model_config=settings))
    rows = pandas.DataFrame(texts, columns=columns_of(served.problem, len(texts[0])))

    def alone() -> pandas.DataFrame:
        return pandas.concat([served.predict(None, rows[row : row + 1]) for row in range(len(rows))], ignore_index=True)

    told = problem.told(alone() if forms.quantised(model_dir, serves) else served.predict(None, rows))
    tokenizer = checkpoint.load_tokenizer(forms.folder_of(model_dir, serves))
    expected = problem.expected(logits(model, tokenizer, texts, manifest))
    if expected is None:
        expected = problem.told(alone())
    apart = max(difference(one, two) for one, two in zip(expected, told, strict=True))
    if not apart <= forms.TOLERANCE:
        raise InputError(
            f"{model_dir}: what would be served differs by {apart:.3g} from what was evaluated, more than "
            f"{forms.TOLERANCE:g}; check that the tokenizer beside the model is the one it was pruned with"
        )


def answers_of(problem: str) -> Path:
    """The file of a problem's answers. Raises InputError where there is none: its models are not served."""
    answers = problem_of(problem).answers
    if answers is None:
        raise InputError(
            f"a model for {problem} cannot be registered: MLflow would not know how to serve it; load its folder with "
            "transformers or fastprune"
        )
    return answers


def artifacts_of(model_dir: str | Path, problem: Problem) -> dict[str, str]:
    """What a served model is made of: its folder, and the files of code that it runs beside its own."""
    return {"model": str(model_dir), "inputs": str(INPUTS), "answers": str(problem.answers)}


def columns_of(answers: ModuleType, count: int) -> list[str]:
    """The names of a served model's columns, from the file of its answers and the number of its text columns."""
    return list(answers.COLUMNS) or ["text", "text_pair"][: max(count, 1)]


def _type(kind: str):
    """A column's type in a signature; ``double[]`` is a list in each row."""
    from mlflow.types.schema import Array

    return Array(kind.removesuffix("[]")) if kind.endswith("[]") else kind


def difference(expected: float, found: float) -> float:
    """Absolute, or relative to what is expected where that is more than 1."""
    return abs(expected - found) / max(1.0, abs(expected))


def log_version(
    uri: str,
    run_id: str,
    model_dir: str | Path,
    name: str,
    *,
    settings: Mapping[str, Any],
    record: Path | None = None,
    card: str = "",
    figures: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Log a pruned model under a run and register it, tags and all, in one step.

    The version loads with ``mlflow.pyfunc.load_model``: the saved folder travels as it is beside
    ``pyfunc_model.py`` (models from code: nothing is pickled). It needs transformers, and torch or onnxruntime by what
    it serves, but not fastprune.

    Parameters
    ----------
    settings : mapping
        As :func:`settings_of` makes them.
    record : Path, optional
        A folder that travels with the model.
    card : str
        The version's description, in Markdown.
    figures : mapping, optional
        Metrics that MLflow shows beside the version.
    tags : mapping, optional
        Of the version.

    Returns
    -------
    str
        The version.

    Raises
    ------
    DeadlinePassed
        The store has not taken it within the seconds of a run and two more for each megabyte.
    """
    client = mlflow_store.connect(uri)
    import mlflow
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    from fastprune.releases.pyfunc_model import load_code

    asked = problem_of(settings["problem"])
    answers = load_code("answers", asked.answers)
    inputs = columns_of(answers, len(settings["text_columns"]))
    example = answers.EXAMPLE or (("A first sentence.", "Its pair.") if len(inputs) == 2 else ("A text to judge.",))
    signature = ModelSignature(
        # A single text goes without a name, so that plain lists of texts are accepted.
        inputs=Schema(
            [ColSpec(getattr(answers, "CELL", "string"), column if len(inputs) > 1 else None) for column in inputs]
        ),
        outputs=Schema([ColSpec(_type(kind), column) for column, kind in answers.OUTPUTS.items()]),
    )
    runs_on = ("onnxruntime",) if settings[forms.SERVES] == forms.ONNX else ("safetensors", "torch")
    packages = ["mlflow", "numpy", "pandas", *runs_on, "transformers", *getattr(answers, "PACKAGES", ())]

    def log() -> str:
        mlflow.set_tracking_uri(uri)
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name=re.sub("[/:.%\"']", "-", name),  # what MLflow allows in the name of a logged model
                python_model=str(SERVED),
                artifacts=artifacts_of(model_dir, asked) | ({"record": str(record)} if record else {}),
                model_config=dict(settings),
                signature=signature,
                input_example=pandas.DataFrame([example], columns=inputs),
                pip_requirements=[f"{package}=={found}" for package in packages if (found := _installed(package))],
            )
            mlflow.log_metrics(dict(figures or {}), model_id=logged.model_id)
            open_model(client, name)
            registered = client.create_model_version(
                name, logged.model_uri, run_id, tags=dict(tags or {}), description=card, model_id=logged.model_id
            )
            # As a server does by itself: the model's page leads to its version.
            versions = json.dumps([{"name": name, "version": str(registered.version)}])
            client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": versions})
        return str(registered.version)

    size = sum(file.stat().st_size for file in Path(model_dir).rglob("*") if file.is_file())
    with _quiet():
        return deadlines.within(deadlines.run() + 2 * size / RATE, log)


def _installed(package: str) -> str:
    """Its version, without what follows a plus sign; empty where it is not installed."""
    try:
        return version_of(package).split("+")[0]
    except PackageNotFoundError:
        return ""


def open_model(client, name: str) -> bool:
    """Make a registered model, or prove that it may be written to; whether it was made."""
    from mlflow import MlflowException

    try:
        client.create_registered_model(name, tags={KIND: "pruned"}, description=_ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.set_registered_model_tag(name, KIND, "pruned")  # who may not do this may not register either
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's advice on type hints and on input examples."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
