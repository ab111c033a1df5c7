"""What a GPU would be waited for, and what would be launched on it, counted on a CPU."""

import pytest
import torch
from counting import Counted
from tiny_models import build, random_batches, random_masks

from fastprune.importance.curvature import estimate_curvature
from fastprune.importance.fisher import estimate_fisher
from fastprune.importance.surgeon import removal_costs, removal_order
from fastprune.model import products
from fastprune.model.architectures import describe
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.weights import reconstruct_weights

BATCHES = [[9, 4, 1], [7, 7, 2, 2], [5, 3], [8, 8]]
OWN = {"classification": 1, "question-answering": 1, "token-classification": 3}
"""Of a forward pass transformers itself asks whether the batch has any padding; tags are scored by a mask."""


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """oneDNN multiplies on CPUs alone, and would be counted with its copies."""
    monkeypatch.setattr(products, "_gains", lambda: False)


def counted(step, *, layers=2, rounds=1, problem="classification", family="bert"):
    """What one of the steps does on so many rounds of batches."""
    model = build(family, problem, num_layers=layers)
    encoder, batches = describe(model), random_batches(model, problem, BATCHES * rounds)
    curvature = estimate_curvature(encoder, batches, problem, progress=False)
    steps = {
        "curvature": lambda: estimate_curvature(encoder, batches, problem, progress=False),
        "fisher": lambda: estimate_fisher(encoder, batches, problem, progress=False),
        "removal costs": lambda: removal_costs(encoder, curvature),
        "walk": lambda: reconstruct_weights(Teacher(encoder, batches), random_masks(encoder), problem, progress=False),
    }
    with Counted() as count:
        steps[step]()
    return count.reads.total(), count.launches.total()


@pytest.mark.parametrize("problem", ["classification", "question-answering", "token-classification"])
@pytest.mark.parametrize("step, launches", [("curvature", 90), ("fisher", 60), ("walk", 180)])
def test_batches_are_not_waited_for(step, launches, problem):
    """What is read grows with the layers and not with the batches, and so much is launched for a layer and batch."""
    few, many = (counted(step, rounds=rounds, problem=problem) for rounds in (1, 3))
    more = 2 * len(BATCHES)
    assert many[0] - few[0] <= OWN[problem] * more + 12 * (step == "walk")  # the ridge that is chosen may be another
    assert many[1] - few[1] <= launches * 2 * more  # of two layers


@pytest.mark.parametrize("step, reads", [("curvature", 4), ("fisher", 2), ("removal costs", 10), ("walk", 60)])
def test_how_often_a_layer_is_waited_for(step, reads):
    few, many = (counted(step, layers=layers)[0] for layers in (2, 4))
    assert (many - few) / 2 <= reads


def test_the_steps_of_removal_are_not_waited_for():
    torch.manual_seed(0)
    inputs, gradients, weight = torch.randn(90, 24), torch.randn(30, 6), torch.randn(6, 24)
    factors = (inputs.T @ inputs).double(), (gradients.T @ gradients).double()
    counts = []
    for steps in (4, 24):
        with Counted() as count:
            removal_order(*factors, weight, 24, steps=steps)
        counts.append(count.reads.total())
    assert counts[0] == counts[1] <= 5


def test_what_waits_is_counted():
    values = torch.arange(4.0)
    with Counted() as count:
        assert values.sum().item() == 6 and bool(values[1] > 0)
        _ = values[values > 1], values.nonzero(), torch.linalg.inv(torch.eye(2))
        _ = values.view(2, 2).T, torch.linalg.inv_ex(torch.eye(2)), values[torch.tensor([0, 2])]
    assert count.reads == {"_local_scalar_dense": 2, "index": 1, "nonzero": 1, "_linalg_check_errors": 1}
    assert count.launches["sum"] == 1 and "view" not in count.launches
