"""Small tables, and the tasks that they are for."""

import json

import numpy as np

from fastprune.data import Task, glue_task

PAIR = Task("pair", "classification", "accuracy", ("first", "second"), "label")
SINGLE = Task("single", "classification", "accuracy", ("text",), "label")
SCORE = Task("score", "regression", "pearson", ("text",), "label")
QA = glue_task("squad")

NAMES = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st", "uv", "wx", "yz"]
LONG = " ".join(f"the film {name} was good ." for name in NAMES * 3)


def texts(count, longest=12, seed=0):
    rng = np.random.default_rng(seed)
    words = np.array(["good", "bad", "film", "great", "dull", "it", "was", "not", "very", "odd", "zebra"])
    return [" ".join(rng.choice(words, rng.integers(1, longest + 1))) for _ in range(count)]


def squad_file(path, entries):
    """Write (context, [(id, question, [(answer, start)])])."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": i, "question": q, "answers": [{"text": t, "answer_start": s} for t, s in answers]}
                for i, q, answers in questions
            ],
        }
        for context, questions in entries
    ]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path
