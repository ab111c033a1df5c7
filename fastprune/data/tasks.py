"""What a table is for: the columns to read and the metric to judge by."""

from dataclasses import dataclass
from typing import Literal

from datasets import Dataset, load_dataset

from fastprune.errors import InputError
from fastprune.settings import METRICS

Problem = Literal["classification", "regression", "question-answering"]


@dataclass(frozen=True)
class Task:
    """What a table is for: the columns to read and the metric to judge by.

    Raises
    ------
    InputError
        If the metric does not belong to the problem, or the number of text columns is not 1 or 2
        (question answering: exactly question and context).
    """

    name: str
    problem: Problem
    metric: str
    text_columns: tuple[str, ...]
    label_column: str
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.problem not in METRICS:
            raise InputError(f"unknown problem {self.problem!r}; use one of {', '.join(METRICS)}")
        if self.metric not in METRICS[self.problem]:
            raise InputError(
                f"metric {self.metric!r} is not one of {', '.join(METRICS[self.problem])}, "
                f"the metrics of {self.problem}"
            )
        allowed = (2,) if self.problem == "question-answering" else (1, 2)
        if len(self.text_columns) not in allowed:
            raise InputError(
                f"{self.problem} reads {' or '.join(map(str, allowed))} text columns, "
                f"but {len(self.text_columns)} are named: {list(self.text_columns)}"
            )


_GLUE = {
    task.name: task
    for task in (
        Task("cola", "classification", "matthews_correlation", ("sentence",), "label"),
        Task("sst2", "classification", "accuracy", ("sentence",), "label"),
        Task("mrpc", "classification", "accuracy", ("sentence1", "sentence2"), "label"),
        Task("qqp", "classification", "accuracy", ("question1", "question2"), "label"),
        Task("stsb", "regression", "pearson_spearman", ("sentence1", "sentence2"), "label"),
        Task("mnli", "classification", "accuracy", ("premise", "hypothesis"), "label"),
        Task("qnli", "classification", "accuracy", ("question", "sentence"), "label"),
        Task("rte", "classification", "accuracy", ("sentence1", "sentence2"), "label"),
        Task("wnli", "classification", "accuracy", ("sentence1", "sentence2"), "label"),
        Task("squad", "question-answering", "squad_f1", ("question", "context"), "answers", max_length=384),
    )
}


def glue_task(name: str) -> Task:
    """Return the task of a GLUE name (``mnli`` is judged on its matched part), or ``squad``.

    Raises
    ------
    InputError
        If there is no such task; the message lists them.
    """
    if name not in _GLUE:
        raise InputError(f"unknown task {name!r}; use one of {', '.join(_GLUE)}, or give your own files")
    return _GLUE[name]


def load_glue(task_name: str) -> tuple[Dataset, Dataset]:
    """Fetch a task's training and labelled evaluation tables from the Hugging Face hub.

    Raises
    ------
    InputError
        If the task is unknown or cannot be fetched.
    """
    glue_task(task_name)
    source = ("rajpurkar/squad",) if task_name == "squad" else ("nyu-mll/glue", task_name)
    try:
        splits = load_dataset(*source)
    except OSError as error:
        raise InputError(
            f"task {task_name!r}: data set {'/'.join(source)} cannot be fetched from the hub ({error}); "
            f"check the network, or give local files"
        ) from error
    return splits["train"], splits["validation_matched" if task_name == "mnli" else "validation"]
