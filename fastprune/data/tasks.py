"""What a table is for: the columns to read and the metric to judge by."""

from dataclasses import dataclass

from datasets import Dataset, load_dataset

from fastprune.errors import InputError
from fastprune.problem import problem_of
from fastprune.settings import AGREEMENT


@dataclass(frozen=True)
class Task:
    """What a table is for: the columns to read and the metric to judge by.

    Raises
    ------
    InputError
        If the metric does not belong to the problem, or the number of text columns is not one that it reads.
    """

    name: str
    problem: str
    metric: str
    text_columns: tuple[str, ...]
    label_column: str
    max_length: int = 128

    def __post_init__(self) -> None:
        problem = problem_of(self.problem)
        known = (*problem.metrics, AGREEMENT) if problem.beside_dense(AGREEMENT) else problem.metrics
        if self.metric not in known:
            raise InputError(f"metric {self.metric!r} is not one of {', '.join(known)}, the metrics of {self.problem}")
        if self.metric == AGREEMENT and self.label_column:
            raise InputError(
                f"metric {AGREEMENT} compares with the dense model's answers and reads no labels; leave label_column "
                "out, or name another metric"
            )
        allowed = problem.num_texts
        if len(self.text_columns) not in allowed:
            raise InputError(
                f"{self.problem} reads {' or '.join(map(str, allowed))} text columns, "
                f"but {len(self.text_columns)} are named: {list(self.text_columns)}"
            )


_PAIR = ("sentence1", "sentence2")
_GLUE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cola": ("classification", "matthews_correlation", ("sentence",)),
    "sst2": ("classification", "accuracy", ("sentence",)),
    "mrpc": ("classification", "accuracy", _PAIR),
    "qqp": ("classification", "accuracy", ("question1", "question2")),
    "stsb": ("regression", "pearson_spearman", _PAIR),
    "mnli": ("classification", "accuracy", ("premise", "hypothesis")),
    "qnli": ("classification", "accuracy", ("question", "sentence")),
    "rte": ("classification", "accuracy", _PAIR),
    "wnli": ("classification", "accuracy", _PAIR),
    "mnli_mismatched": ("classification", "accuracy", ("premise", "hypothesis")),
    "squad_v2": ("question-answering-or-none", "squad_v2_f1", ("question", "context")),
    "squad": ("question-answering", "squad_f1", ("question", "context")),
}
"""Problem, metric and text columns."""

_SPLITS = {"mnli": "validation_matched", "mnli_mismatched": "validation_mismatched"}


def glue_task(name: str) -> Task:
    """Return the task of a GLUE name, ``squad`` or ``squad_v2``.

    ``mnli`` is judged on its matched part, ``mnli_mismatched`` on the other.

    Raises
    ------
    InputError
        If there is no such task; the message lists them.
    """
    if name not in _GLUE:
        raise InputError(f"unknown task {name!r}; use one of {', '.join(_GLUE)}, or give your own files")
    asked, metric, columns = _GLUE[name]
    problem = problem_of(asked)
    return Task(name, asked, metric, columns, problem.label_column or "label", problem.max_length)


def load_glue(task_name: str) -> tuple[Dataset, Dataset]:
    """Fetch a task's training and labelled evaluation tables from the Hugging Face hub.

    Raises
    ------
    InputError
        If the task is unknown or cannot be fetched.
    """
    glue_task(task_name)
    source = (f"rajpurkar/{task_name}",) if "squad" in task_name else ("nyu-mll/glue", task_name.split("_")[0])
    try:
        splits = load_dataset(*source)
    except OSError as error:
        raise InputError(
            f"task {task_name!r}: data set {'/'.join(source)} cannot be fetched from the hub ({error}); "
            f"check the network, or give local files"
        ) from error
    return splits["train"], splits[_SPLITS.get(task_name, "validation")]
