"""What a problem is: how rows are read and outputs judged. Each is one file in :mod:`fastprune.problems`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
import transformers
from datasets import Dataset
from torch import Tensor

from fastprune.errors import InputError
from fastprune.model import model_inputs
from fastprune.model.losses import inputs_of, stack
from fastprune.settings import AGREEMENT, METRICS, check_problem, own_problems

if TYPE_CHECKING:
    import pandas

    from fastprune.data.source import Source
    from fastprune.data.splits import Split
    from fastprune.data.tasks import Task


_TEXTS = ["A warm, funny and clever film.", "It was dull from beginning to end!", "Who won? The king did; nobody else."]


class Problem(ABC):
    """What a model is asked, from the rows of a table to an answer that is served.

    Attributes
    ----------
    heads : tuple of str
        How the names of its classes in transformers end.
    metrics : tuple of str
        What it may be judged by, written out in the class: the names are read where there is no torch. The first is
        what it is judged by where nothing is said.
    num_texts : tuple of int
        How many text columns it may read.
    columns, label_column : tuple of str, str
        The columns that are read where none are named; empty where they must be.
    task_name : str
        What a table of one's own is called in manifests.
    max_length : int
        Tokens at which texts are cut where nothing is said.
    loss_reads_labels : bool
        Whether the loss is one of labels, which a selection by it then needs.
    positions : {"first", "every"}
        Which tokens of the last layer's output are read on.
    usual : bool
        Whether it is the problem of a model that it takes where none is named.
    cuts_first : bool
        Whether the first text may be cut where texts are too long.
    answers : Path, optional
        The file that turns outputs into served answers. It is copied beside the served model, and needs no fastprune.
        Without one its models cannot be registered.
    """

    heads: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    num_texts: ClassVar[tuple[int, ...]] = (1, 2)
    columns: ClassVar[tuple[str, ...]] = ()
    label_column: ClassVar[str] = ""
    task_name: ClassVar[str] = "table"
    max_length: ClassVar[int] = 128
    loss_reads_labels: ClassVar[bool] = True
    positions: ClassVar[Literal["first", "every"]] = "first"
    usual: ClassVar[bool] = True
    cuts_first: ClassVar[bool] = True
    answers: ClassVar[Path | None]

    @abstractmethod
    def takes(self, config: transformers.PretrainedConfig) -> bool:
        """Whether a model with one of ``heads`` and this configuration is for this problem."""

    def read_positions(self, config: transformers.PretrainedConfig) -> Literal["first", "every"]:
        """Which tokens of the last layer's output a model with this configuration reads on."""
        return self.positions

    def length(self, config: transformers.PretrainedConfig) -> int:
        """Tokens at which texts are cut where nothing is said."""
        return self.max_length

    def usual_metric(self, label_column: str | None) -> str:
        """What a model is judged by where nothing is said."""
        return self.metrics[0]

    def needs_label(self, metric: str) -> bool:
        """Whether an evaluation by this metric reads a label column."""
        return not self.beside_dense(metric)

    def labels(self, source: Source) -> pa.Array:
        """The targets of every row of a table [rows], which :meth:`encode` wants unless it is another."""
        raise InputError(
            f"the problem {source.task.problem!r} reads no labels: {type(self).__name__} has neither labels() nor an "
            "encode() of its own; write one of them"
        )

    def texts_in(self, table: Dataset, text_columns: Sequence[str]) -> list[str]:
        """Those of a task's text columns that a table must have."""
        return list(text_columns)

    def rows_of(self, table: Dataset, text_columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The texts of each example, as they are served."""
        texts = ((" ".join(text) if isinstance(text, list) else text for text in table[name]) for name in text_columns)
        return zip(*texts, strict=True)

    def examples_in(self, table: Dataset, task: Task) -> int:
        """How many examples a table has to draw a sample from."""
        return len(table)

    def encode(
        self, source: Source, rows: np.ndarray, *, labelled: bool, for_evaluation: bool
    ) -> tuple[pa.Table, pa.Table | None]:
        """Turn rows of a table into features.

        Parameters
        ----------
        source : Source
            The whole table, which is checked whatever rows are wanted.
        rows : array of int
            Their numbers.
        labelled : bool
            With targets.
        for_evaluation : bool
            With what is needed to turn outputs back into answers.

        Returns
        -------
        features : Table
            The model's inputs, and the targets by one of the names of :data:`fastprune.model.losses.LABELS`.
        examples : Table or None
            What the features were made from, where a row may give several of them.
        """
        features = source.tokens([column.take(rows) for column in source.texts()])
        return (features.append_column("labels", self.labels(source).take(rows)) if labelled else features), None

    def run(self, model: Any, batch: Mapping[str, Tensor]) -> Any:
        """What the model puts out for a batch, on its own device: what all that follows is made of."""
        return model(**inputs_of(batch, next(model.parameters()).device))

    @abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of each example [B], the same that transformers averages over a batch."""

    @abstractmethod
    def score(
        self, outputs: Any, batch: Mapping[str, Tensor], temperature: float, generator: torch.Generator
    ) -> Tensor:
        """A scalar whose gradient has the Gauss-Newton matrix as its second moment, without any label.

        The Hessian of the divergence from the model's own predictions (softened by ``temperature``) with respect to
        the outputs is ``B B^T``. With random signs ``e``, the gradient of ``(B e)^T outputs`` has ``J^T B B^T J`` as
        its second moment, so that one backward pass stands for all outputs.

        Parameters
        ----------
        batch : dict of Tensor
            What went in. Labels are not read.
        generator : torch.Generator
            On the CPU, so that every device draws the same signs.

        Returns
        -------
        Tensor []
            Summed over the batch.
        """

    def outputs(self, outputs: Any) -> Tensor:
        """What the evaluation keeps of a batch [B, ...]."""
        return outputs.logits

    @abstractmethod
    def measure(self, split: Split, outputs: Sequence[np.ndarray]) -> tuple[dict[str, float], np.ndarray]:
        """Every metric, from what :meth:`outputs` kept of each feature, and the outcome of every example.

        Returns
        -------
        metrics : dict
            As fractions of 1.
        outcomes : ndarray [examples] float64
            Their mean is the task's metric, see :mod:`fastprune.data.outcomes`.
        """

    def beside_dense(self, metric: str) -> bool:
        """Whether a metric says how like the outputs are to the dense model's: it reads no labels.

        By default ``agreement``, of a problem that can :meth:`compare`.
        """
        return metric == AGREEMENT and self.compares

    @property
    def compares(self) -> bool:
        """Whether it can hold the outputs of two models against each other, with or without labels."""
        return (type(self).compare, type(self).likeness) != (Problem.compare, Problem.likeness)

    @property
    def unlabelled(self) -> str:
        """The metric that says so; empty where there is none."""
        return next((metric for metric in (AGREEMENT, *self.metrics) if self.beside_dense(metric)), "")

    def likeness(
        self, split: Split, outputs: Sequence[np.ndarray], dense: Sequence[np.ndarray]
    ) -> tuple[dict[str, float], np.ndarray]:
        """What :meth:`measure` gives, by such a metric."""
        rows, divergence = self.compare(split, outputs, dense)
        return {AGREEMENT: float(rows.mean()), "divergence": float(divergence.mean())}, rows

    def compare(
        self, split: Split, outputs: Sequence[np.ndarray], dense: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """How near a model is to the dense one on rows without labels.

        Parameters
        ----------
        outputs, dense
            What :meth:`outputs` kept of each feature, of the model and of the dense model. An axis of tokens may be
            longer than the feature.

        Returns
        -------
        agreement : ndarray [examples] float64
            1 where both answer the same. The mean is the metric ``agreement``.
        divergence : ndarray [examples] float64
            From the dense model's predictions, 0 where they are the same.

        Raises
        ------
        InputError
            The problem has none of its own.
        """
        raise InputError(f"{type(self).__name__} cannot hold two models against each other: write its compare()")

    def constant(self, split: Split, num_labels: int | None) -> float:
        """The primary metric of always giving the same answer, at best; 0 where that tells nothing."""
        return 0.0

    def margin(self, metric: str) -> float:
        """By how much a fine-tuned model does better than a constant answer; guessing does a little better too."""
        return 0.1

    def check_evaluation(self, split: Split) -> None:  # noqa: B027
        """Raise InputError where these rows tell nothing of a model, by default never."""

    def served(self, text_columns: Sequence[str]) -> list[str]:
        """Of the text columns of a task those of a row that is served."""
        return list(text_columns)

    def probes(self, text_columns: Sequence[str]) -> list[list[str]]:
        """A few rows of what such a model is served; their outputs are recorded with every version."""
        pairs = zip(_TEXTS, _TEXTS[1:] + _TEXTS[:1], strict=True)
        return [list(pair) if len(self.served(text_columns)) == 2 else [pair[0]] for pair in pairs]

    def unlike(self, texts: Sequence[str]) -> list[list[str]]:
        """Rows of other lengths than a row: a batch of them all must be answered as each alone. One must be cut."""
        cut = [f"{text} " * 100 for text in texts]
        if not self.cuts_first:
            cut[0] = texts[0]
        return [["It"] * len(texts), cut]

    def as_text(self, row: Sequence[Any]) -> list[str]:
        """A row of :meth:`rows_of` such as JSON takes it and :meth:`row_outputs` reads it."""
        return list(row)

    def row_outputs(self, model: Any, tokenizer: Any, texts: Sequence[str], max_length: int) -> Tensor:
        """What the evaluation keeps of a single row of texts as they are served [...]."""
        inputs = model_inputs.tokenize(tokenizer, model.config, [[text] for text in texts], max_length)
        return self.outputs(self.run(model, stack(inputs, tokenizer.pad_token_id)))[0]

    @abstractmethod
    def told(self, answers: pandas.DataFrame) -> list[float]:
        """The numbers of served answers that :meth:`expected` gives too."""

    @abstractmethod
    def expected(self, outputs: Sequence[Sequence[float]]) -> list[float] | None:
        """The numbers that should be served, from the logits of each row; None to serve each row alone for that."""


def problem_of(name: str) -> Problem:
    """The problem of that name, one of :mod:`fastprune.problems` or of an installed package.

    Raises
    ------
    InputError
        There is none of that name, or what a package brings by it is none.
    """
    if name in METRICS:
        return import_module(f"fastprune.problems.{name.replace('-', '_')}").PROBLEM
    check_problem(name)
    problem = own_problems()[name].load()
    if not isinstance(problem, Problem):
        raise InputError(f"the entry point {name!r} gives a {type(problem).__name__}; it must be a fastprune.Problem")
    return problem


def problem_names() -> tuple[str, ...]:
    """Of all problems: fastprune's own, then those of installed packages."""
    return (*METRICS, *own_problems())


def head_of(class_name: str) -> str | None:
    """How the name of a class that some problem takes ends, such as ``ForSequenceClassification``; None of no other."""
    heads = {head for name in problem_names() for head in problem_of(name).heads}
    return next((head for head in heads if class_name.endswith(head)), None)


def problem_for(config: transformers.PretrainedConfig) -> str | None:
    """The name of the problem that a model's configuration tells; None where it fits none."""
    return next((name for name in problem_names() if problem_of(name).usual and fits(name, config)), None)


def fits(name: str, config: transformers.PretrainedConfig, class_name: str = "") -> bool:
    """Whether a model of this configuration, and of its class unless another is named, is for the problem of a name."""
    head = head_of(class_name or (config.architectures or [""])[0]) or "ForSequenceClassification"
    return head in problem_of(name).heads and problem_of(name).takes(config)
