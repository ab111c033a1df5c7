"""The span of a context that answers a question, or none, as in SQuAD 2.0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from fastprune.data.questions import best_threshold, encode_questions, squad_v2_scores
from fastprune.problems.question_answering import QuestionAnswering, best_answers

THRESHOLD = "null_score_diff_threshold"
"""The field of the model's configuration, 0 where it is not there, as transformers' examples call it."""


class QuestionAnsweringOrNone(QuestionAnswering):
    """There is no answer where the score of the first token, least of all windows, beats the best by ``THRESHOLD``."""

    metrics = ("squad_v2_f1", "squad_v2_exact_match")
    task_name = "squad_v2"
    usual = False  # nothing in the configuration tells
    answers = Path(__file__).with_name("answers") / "question_answering_or_none.py"
    scores = staticmethod(squad_v2_scores)

    def encode(self, source, rows, *, labelled, for_evaluation):
        features, examples = encode_questions(source, rows, labelled, may_lack=True)
        if not for_evaluation:
            return features.drop_columns("offset_mapping"), None
        threshold = [float(getattr(source.config, THRESHOLD, 0.0))] * len(features)
        return features.append_column(THRESHOLD, pa.array(threshold)), examples

    def tell(self, split, outputs):
        threshold = split.features[THRESHOLD][0]
        found = self._spans(split, outputs)
        return {example: text for example, (difference, text) in found.items() if difference <= threshold}

    def measure(self, split, outputs):
        """Beside the scores at the model's threshold the best that any threshold reaches on these very rows."""
        metrics, outcomes = super().measure(split, outputs)
        found = self._spans(split, outputs)
        lacks = np.array([not answers["text"] for answers in split.examples["answers"]])
        spanned = np.array([example in found for example in split.examples["id"]], dtype=bool)
        scores = squad_v2_scores({example: text for example, (_, text) in found.items()}, split.examples)
        differences = np.array([found[example][0] for example in split.examples["id"] if example in found])
        for name, column in scores.items():
            gains = np.where(lacks, -1.0, column)[spanned]
            best, threshold = best_threshold(gains, differences, int(lacks.sum()))
            short = name.removeprefix("squad_v2_")
            metrics |= {f"best_{short}": best / len(column), f"best_{short}_threshold": threshold}
        return metrics, outcomes

    def _spans(self, split, outputs) -> dict[str, tuple[float, str]]:
        """Of each question that has a span, by how much none is above it, and its text."""
        none: dict[str, float] = {}
        for example, scores in zip(split.features["example_id"], outputs, strict=True):
            none[example] = min(none.get(example, np.inf), float(scores[:, 0].sum()))
        best = best_answers(split, split.examples, outputs)
        return {example: (none[example] - score, text) for example, (score, text) in best.items()}

    def constant(self, split, num_labels):
        """Of never answering."""
        return sum(not answers["text"] for answers in split.examples["answers"]) / len(split.examples)


PROBLEM = QuestionAnsweringOrNone()
