"""A tiny compression: its data, and the folders that its stages make."""

import inspect
import random
from importlib import import_module

import pytest
import torch

from fastprune.sweep.stages import stages_of

WORDS = ["the", "film", "was", "not", "very", "good", "bad", "dull", "great"]


def write_rows(path, tokenizer, model, rows, seed):
    """Random sentences, labelled by the model itself: it is then perfectly tuned for them."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(rows)]
    with torch.inference_mode():
        labels = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.argmax(-1).tolist()
    assert 0 < sum(labels) < rows
    path.write_text("sentence,label\n" + "".join(f"{text},{label}\n" for text, label in zip(texts, labels)))
    return str(path)


@pytest.fixture(scope="session")
def source(tmp_path_factory, tiny_tokenizer, tiny_bert):
    """Arguments of a tiny compression: a saved model and its tables."""
    folder, model = tmp_path_factory.mktemp("source"), tiny_bert()
    model.save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    return {
        "source": str(folder / "model"),
        "train_file": write_rows(folder / "train.csv", tiny_tokenizer, model, 60, seed=1),
        "eval_file": write_rows(folder / "eval.csv", tiny_tokenizer, model, 40, seed=2),
        "text_columns": ["sentence"],
        "label_column": "label",
        "num_samples": 48,
    }


def run_stages(root, **given):
    """Every folder of a compression by name, made by running all of the algorithm's stages in order."""
    made = {}
    for stage in algorithm_stages(latency=given.get("constraint") == "latency"):
        run = getattr(import_module(stage.place), stage.name)
        parameters = inspect.signature(run).parameters
        made |= {name: root / name for name in stage.outputs}
        paths = {name: made[name] for name in stage.inputs + stage.outputs}
        run(**paths, **{name: value for name, value in given.items() if name in parameters})
    return made


def algorithm_stages(**given):
    return [stage for stage in stages_of(**given) if not (stage.releases or stage.regardless)]


@pytest.fixture(scope="session")
def folders(tmp_path_factory, source):
    return run_stages(tmp_path_factory.mktemp("stages"), **source, keep_ratio=0.5)
