"""A tag for each word, such as the entities of a text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune.data.divergence import class_divergence
from fastprune.data.outcomes import jackknife_f1, ratio_of_sums
from fastprune.data.words import encode_words
from fastprune.errors import InputError
from fastprune.model.losses import IGNORED, class_score
from fastprune.model.model_inputs import entities_of
from fastprune.problem import Problem


class TokenClassification(Problem):
    """Cross-entropy of the first piece of each word, summed over an example; F1 of whole entities, as conlleval's."""

    heads = ("ForTokenClassification",)
    metrics = ("seqeval_f1", "accuracy")
    num_texts = (1,)
    columns = ("tokens",)
    label_column = "tags"
    positions = "every"
    answers = Path(__file__).with_name("answers") / "token_classification.py"

    def takes(self, config):
        return (config.num_labels or 0) > 1

    def encode(self, source, rows, *, labelled, for_evaluation):
        return encode_words(source, rows, labelled=labelled, for_evaluation=for_evaluation), None

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        labels = batch["labels"].to(outputs.logits.device)  # [B, T]
        each = F.cross_entropy(outputs.logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        return each.sum(-1)

    def score(
        self, outputs: Any, batch: Mapping[str, Tensor], temperature: float, generator: torch.Generator
    ) -> Tensor:
        """Of every token but padding: which of them begin words is not asked."""
        tokens = batch["attention_mask"].bool().to(outputs.logits.device)
        return class_score(outputs.logits[tokens], temperature, generator)

    def measure(self, split, outputs):
        names, tags = split.features["tag_names"][0], split.features["tags"][:]
        firsts = split.features["first_pieces"][:]
        told = [
            [names[scores[piece].argmax()] if piece >= 0 else "O" for piece in pieces]
            for scores, pieces in zip(outputs, firsts, strict=True)
        ]
        wanted = [[names[tag] for tag in row] for row in tags]
        counts = np.array([_counts(*pair) for pair in zip(told, wanted, strict=True)])  # [rows, 5]
        f1, rows = jackknife_f1(*counts[:, :3].T)
        accuracy, hits = ratio_of_sums(counts[:, 3], counts[:, 4])
        return {"seqeval_f1": f1, "accuracy": accuracy}, hits if split.task.metric == "accuracy" else rows

    def compare(self, split, outputs, wanted):
        """A row agrees by the part of its words that have the same tag."""
        agreement, divergence = [], []
        for pieces, found, dense in zip(split.features["first_pieces"][:], outputs, wanted, strict=True):
            read = [piece for piece in pieces if piece >= 0]
            agreement.append(np.mean(found[read].argmax(1) == dense[read].argmax(1)) if read else 1.0)
            divergence.append(class_divergence(dense[read], found[read]).mean() if read else 0.0)
        return np.array(agreement), np.array(divergence)

    def constant(self, split, num_labels):
        """Of one tag for all words; there are no entities where it is ``O``."""
        tags = [tag for row in split.features["tags"][:] for tag in row]
        return float(np.bincount(tags).max() / len(tags)) if split.task.metric == "accuracy" else 0.0

    def margin(self, metric):
        return 0.01 if metric == "accuracy" else 0.1

    def check_evaluation(self, split):
        if len({tag for row in split.features["tags"][:] for tag in row}) == 1:
            raise InputError(
                f"task {split.task.name!r}: all words of the evaluation rows have one tag, so they tell nothing of "
                "a model; give rows with several"
            )

    def told(self, answers):
        return [word["probability"] for row in answers["words"] for word in json.loads(row)]

    def expected(self, outputs: Sequence[Sequence[float]]) -> None:
        """A single row has no padding."""
        return None


def _counts(told: list[str], wanted: list[str]) -> tuple[int, int, int, int, int]:
    """Entities that are right, told and wanted, and words that are right, and all."""
    found, gold = entities_of(told), entities_of(wanted)
    right = sum(one == other for one, other in zip(told, wanted, strict=True))
    return len(found & gold), len(found), len(gold), right, len(wanted)


PROBLEM = TokenClassification()
