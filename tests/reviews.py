"""Reviews that a tiny classifier learns in a second, and what is pruned on them."""

import numpy as np
from click.testing import CliRunner
from datasets import Dataset

import fastprune
from fastprune.cli.main import main
from fastprune.data import Task

TASK = Task("reviews", "classification", "accuracy", ("text",), "label")
NEUTRAL = ["the", "a", "and", "of", "in", "was", "is", "it", "film", "movie", "who", "when", "where", "what", "king"]
PAPER = {"selection": "fisher", "tuning": "mask"}


def reviews(count, seed):
    """Neutral words about one word that decides the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    rows = []
    for label in labels:
        words = list(rng.choice(NEUTRAL, rng.integers(2, 12)))
        words.insert(rng.integers(0, len(words) + 1), rng.choice(["good", "great"] if label else ["bad", "dull"]))
        rows.append(" ".join(words))
    return Dataset.from_dict({"text": rows, "label": labels})


def write_tsv(table, path):
    rows = zip(table["text"], table["label"], strict=True)
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))


def compress(material, **options):
    settings = {
        "dataset": material / "train.tsv",
        "evaluation": material / "eval.tsv",
        "task": TASK,
        "device": "cpu",
        "progress": False,
    } | PAPER
    if not {"keep_ratio", "latency_ms", "max_accuracy_drop", "budget"} & options.keys():
        settings["keep_ratio"] = 0.5
    return fastprune.compress(material / "model", **settings | options)


def files_under(folder):
    """What lies in a folder, with its content: to show that a failed command wrote nothing."""
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def run(*arguments):
    return CliRunner().invoke(main, ["compress", *map(str, arguments)])


def table_arguments(material, **options):
    settings = (
        {
            "train-file": material / "train.tsv",
            "eval-file": material / "eval.tsv",
            "text-column": "text",
            "label-column": "label",
            "num-samples": 100,
            "device": "cpu",
        }
        | PAPER
        | options
    )
    if not {"keep-ratio", "latency-ms", "max-accuracy-drop"} & options.keys():
        settings["keep-ratio"] = 0.6
    return [part for name, value in settings.items() if value is not None for part in (f"--{name}", value)]
