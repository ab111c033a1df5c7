"""The span of a context that answers a question, as in SQuAD 1.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from fastprune.data.divergence import class_divergence
from fastprune.data.questions import encode_questions, squad_scores, token_f1
from fastprune.model.losses import class_score
from fastprune.model.model_inputs import best_span
from fastprune.problem import Problem


class QuestionAnswering(Problem):
    """Cross-entropy of the first and of the last token; a long context gives several features."""

    heads = ("ForQuestionAnswering",)
    metrics = ("squad_f1", "squad_exact_match")
    num_texts = (2,)
    columns = ("question", "context")
    label_column = "answers"
    task_name = "squad"
    max_length = 384
    positions = "every"
    cuts_first = False  # a context is cut into windows, a question never
    answers = Path(__file__).with_name("answers") / "question_answering.py"
    scores = staticmethod(squad_scores)

    def takes(self, config):
        return True

    def encode(self, source, rows, *, labelled, for_evaluation):
        features, examples = encode_questions(source, rows, labelled)
        return (features, examples) if for_evaluation else (features.drop_columns("offset_mapping"), None)

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        device = outputs.start_logits.device
        start = F.cross_entropy(outputs.start_logits, batch["start_positions"].to(device), reduction="none")
        end = F.cross_entropy(outputs.end_logits, batch["end_positions"].to(device), reduction="none")
        return (start + end) / 2

    def score(
        self, outputs: Any, batch: Mapping[str, Tensor], temperature: float, generator: torch.Generator
    ) -> Tensor:
        start = class_score(outputs.start_logits, temperature, generator)
        return (start + class_score(outputs.end_logits, temperature, generator)) / 2**0.5

    def outputs(self, outputs: Any) -> Tensor:
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=1)

    def measure(self, split, outputs):
        scores = self.scores(self.tell(split, outputs), split.examples)
        metrics = {name: sum(column) / len(column) for name, column in scores.items()}
        return metrics, np.array(scores[split.task.metric])

    def compare(self, split, outputs, wanted):
        """Agreement is the F1 of the words of both answers; the divergence is of first and last tokens, by window."""
        found, dense = (self.tell(split, scores) for scores in (outputs, wanted))
        agreement = [
            token_f1(found.get(example, ""), dense.get(example, ""), of_nothing=1.0) for example in split.examples["id"]
        ]
        divergence: dict[str, list[float]] = {}
        features = split.features.select_columns(["example_id", "input_ids"])
        for feature, one, other in zip(features, outputs, wanted, strict=True):
            length = len(feature["input_ids"])
            apart = class_divergence(other[:, :length], one[:, :length]).sum()
            divergence.setdefault(feature["example_id"], []).append(float(apart))
        return np.array(agreement), np.array([np.mean(divergence[example]) for example in split.examples["id"]])

    def tell(self, split, outputs: Sequence[np.ndarray]) -> dict[str, str]:
        """The answer to each question that has one."""
        return {example: text for example, (_, text) in best_answers(split, split.examples, outputs).items()}

    def told(self, answers):
        return answers["score"].tolist()

    def expected(self, outputs: Sequence[Sequence[float]]) -> None:
        """A single row has no padding."""
        return None


def best_answers(split, examples: Dataset, outputs: Sequence[np.ndarray]) -> dict[str, tuple[float, str]]:
    """The best answer of each question over its windows, with its score. ``outputs`` [2, padded length] a window."""
    contexts = dict(zip(examples["id"], examples["context"], strict=True))
    best: dict[str, tuple[float, str]] = {}
    features = split.features.select_columns(["example_id", "offset_mapping"])
    for feature, scores in zip(features, outputs, strict=True):
        span, example = best_span(scores, np.asarray(feature["offset_mapping"])), feature["example_id"]
        if span and (example not in best or span[0] > best[example][0]):
            best[example] = (span[0], contexts[example][span[1] : span[2]])
    return best


PROBLEM = QuestionAnswering()
