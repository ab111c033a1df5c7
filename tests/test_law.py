"""The law of memory and time: its operations against what small runs really compute, and the page's table."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForQuestionAnswering

from benchmarks import law
from fastprune.importance.curvature import estimate_curvature
from fastprune.model import grams, products
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.weights import reconstruct_weights

SMALL = law.Shape("small", 3, 64, 256, 32, 12)


@pytest.fixture(autouse=True)
def plain_products(monkeypatch):
    """What is counted: no copies for oneDNN, and of a symmetric sum the upper triangle to the row."""
    monkeypatch.setattr(products, "_gains", lambda: False)
    monkeypatch.setattr(grams, "BLOCK", 1)


def curvature_of(encoder, shape, size):
    estimate_curvature(encoder, batches(shape, size), "question-answering", progress=False)


def reconstruct(encoder, shape, size):
    masks = Masks(torch.zeros(shape.layers, 4), torch.zeros(shape.layers, shape.filters))
    for units in (masks.heads, masks.filters):
        units[:, : int(shape.kept * units.shape[1])] = 1
    reconstruct_weights(Teacher(encoder, batches(shape, size)), masks, "question-answering", progress=False)


def batches(shape, size):
    """Of so many examples each, none with padding."""
    given = torch.randint(5, 90, (shape.samples, shape.tokens)).split(size)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in given]


def encoder_of(shape):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=4,
        intermediate_size=shape.filters,
    )
    return describe(BertForQuestionAnswering(config).eval())


def operations(work, shape):
    with FlopCounterMode(display=False) as counter:
        work(encoder_of(shape), shape, 8)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "work, formula, kept",
    [
        (curvature_of, "curvature_operations", 0.5),
        (reconstruct, "reconstruction_operations", 0.5),
        (reconstruct, "reconstruction_operations", 0.25),
    ],
)
def test_operations_are_those_that_are_counted(work, formula, kept):
    """By how many more a larger sample takes: what the systems' solutions take does not grow with it."""
    few = replace(SMALL, kept=kept)
    many = replace(few, samples=3 * few.samples)
    more = operations(work, many) - operations(work, few)
    assert more == pytest.approx(getattr(many, formula) - getattr(few, formula), rel=0.03)


def test_the_pages_table_is_the_laws():
    lines = (Path(law.__file__).parent / "README.md").read_text().splitlines()
    for one in law.SHAPES:
        name, *sample = one.name.split(", ")
        start = f"| {', '.join([name, str(one.kept), *sample])} | {one.samples:,} x {one.tokens} |"
        [line] = [line for line in lines if line.strip().startswith(start)]
        cells = [cell.strip() for cell in line.split("|")]
        sizes = (one.copy, one.reconstruction_bytes, one.least_bytes, one.curvature_bytes)
        assert cells[3:7] == [f"{size / law.GIB:.2f} GiB" for size in sizes]
        work = one.curvature_operations + one.removal_operations + one.reconstruction_operations
        assert float(cells[7].removesuffix(" T")) == pytest.approx(work / 1e12, rel=0.015)
