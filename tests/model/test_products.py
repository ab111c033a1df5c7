"""Linear maps by oneDNN: the same to rounding, and only where it gains. What a GPU is asked for."""

import pytest
import torch
from counting import Counted
from tiny_models import build, random_batches, random_masks
from torch.nn.functional import linear

from fastprune.importance.curvature import estimate_curvature
from fastprune.model import grams, products
from fastprune.model.architectures import describe
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.weights import reconstruct_weights

# Some builds of torch, such as those for a Mac, come without oneDNN: there is nothing to compare, and it is never
# chosen, which a test below shows everywhere. The pinned builds for x86 have it.
compares = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def gains(monkeypatch):
    """As on a processor on which oneDNN is the faster, with few rows too."""
    monkeypatch.setattr(products, "_gains", lambda: True)
    monkeypatch.setattr(products, "STEP", 2)


def by_onednn(*arguments):
    """The map inside ``fast_products``, and whether oneDNN has multiplied."""
    with Counted() as count, products.fast_products():
        made = linear(*arguments)
    return made, "_linear_pointwise" in count.launches


@compares
@pytest.mark.parametrize(
    "shape, outputs",
    [
        ((7, 5), 3),
        ((4, 7, 5), 3),
        ((2, 4, 7, 5), 1),
        ((1, 1), 1),
        ((1, 5), 3),
        ((0, 5), 3),
        ((3, 0, 5), 2),
        ((301, 129), 257),
    ],
)
@pytest.mark.parametrize("with_bias", [True, False])
@torch.no_grad()
def test_the_same_to_rounding(gains, shape, outputs, with_bias):
    torch.manual_seed(0)
    given = torch.randn(shape), torch.randn(outputs, shape[-1]), torch.randn(outputs) if with_bias else None
    made, chosen = by_onednn(*given)
    exact = linear(*(part if part is None else part.double() for part in given))
    assert chosen == (made.numel() > outputs) and made.shape == exact.shape and made.is_contiguous()
    torch.testing.assert_close(made.double(), exact, rtol=1e-5, atol=1e-5)


@compares
@torch.no_grad()
def test_views_are_read_as_they_are(gains):
    """Turned, cut and repeated ones, as the sums over tokens and the maps of a first token have them."""
    torch.manual_seed(0)
    values = torch.randn(40, 12)
    states = values.view(4, 10, 12)
    for rows, weight in (
        (values[:, 3:7].T, values[:, 5:].T),
        (values[8:], values[2:4]),
        (states[:, :1], values[:5]),
        (values[:1].expand(6, 12), values[:5]),
        (states.transpose(0, 1), values[::4]),
    ):
        made, chosen = by_onednn(rows, weight)
        assert chosen
        torch.testing.assert_close(made, linear(rows.double(), weight.double()).float(), rtol=1e-5, atol=1e-5)


@compares
def test_what_is_multiplied_as_ever(gains):
    """Maps that learn, what is not in float32, and maps without inputs or outputs: bit by bit."""
    values, weight, bias = torch.randn(6, 4), torch.randn(3, 4), torch.randn(3)
    for learns in (weight, bias):
        given = values, weight, bias
        learns.requires_grad_()
        made, chosen = by_onednn(*given)
        assert not chosen and torch.equal(made, linear(*given))
        made.sum().backward()
        assert learns.grad is not None
        learns.requires_grad_(False)
    with torch.no_grad():
        cases = [(values.double(), weight.double()), (values.bfloat16(), weight.bfloat16())]
        cases += [(values[:, :0], weight[:, :0], torch.randn(3)), (values, weight[:0])]
        for given in cases:
            made, chosen = by_onednn(*given)
            assert not chosen and torch.equal(made, linear(*given))


@compares
@pytest.mark.parametrize("shape, outputs", [((7, 5), 3), ((2, 3, 5), 4), ((4, 1, 5), 1), ((0, 5), 3)])
def test_gradients_of_the_inputs_go_by_it_too(gains, shape, outputs):
    torch.manual_seed(0)
    values, weight, bias = torch.randn(shape), torch.randn(outputs, shape[-1]), torch.randn(outputs)
    back = torch.randn(*shape[:-1], outputs)
    exact = values.double().requires_grad_()
    (want,) = torch.autograd.grad(linear(exact, weight.double()), exact, back.double())
    values.requires_grad_()
    with Counted() as count, products.fast_products():
        made = linear(values, bias=bias, weight=weight)
    forwards = count.launches["_linear_pointwise"]
    with count:
        (got,) = torch.autograd.grad(made, values, back)
    assert got.shape == values.shape and weight.grad is None
    assert count.launches["_linear_pointwise"] == 2 * forwards and bool(forwards) == bool(values.numel())
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@compares
def test_it_ends_with_the_block(gains):
    with torch.no_grad():
        by_onednn(torch.ones(2, 3), torch.ones(4, 3))
        with Counted() as count:
            linear(torch.ones(2, 3), torch.ones(4, 3))
    assert "_linear_pointwise" not in count.launches


def test_it_is_chosen_by_the_processor_and_by_what_torch_has(monkeypatch):
    told = products._gains.__wrapped__
    libraries = torch.backends.mkl, torch.backends.mkldnn
    for library in libraries:
        monkeypatch.setattr(library, "is_available", lambda: True)
    for name, want in (("AMD EPYC", True), ("Intel(R) Xeon(R)", False), ("AMD64 Family 6, GenuineIntel", False)):
        monkeypatch.setattr(products, "device_name", lambda _, name=name: name)
        assert told() == want
    monkeypatch.setattr(products, "device_name", lambda _: "AMD EPYC")
    for library in libraries:
        with monkeypatch.context() as without:
            without.setattr(library, "is_available", lambda: False)
            assert not told()
    with monkeypatch.context() as without:
        without.setattr(torch.ops, "mkldnn", object())
        assert not told()


@compares
@pytest.mark.parametrize("chosen", [True, False])
@torch.no_grad()
def test_it_multiplies_only_where_it_is_chosen(gains, monkeypatch, chosen):
    monkeypatch.setattr(products, "_gains", lambda: chosen)
    _, used = by_onednn(torch.ones(2, 3), torch.ones(4, 3))
    assert used == chosen


@pytest.fixture
def precisions(monkeypatch):
    """Those that a GPU would be asked for, of every product of the passes and the sums."""
    asked, multiply = set(), linear

    def noted(*arguments):
        asked.add(torch.backends.cuda.matmul.fp32_precision)
        return multiply(*arguments)

    monkeypatch.setattr(grams, "linear", noted)
    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    monkeypatch.setattr(products, "_gains", lambda: False)
    monkeypatch.setattr(grams, "TOGETHER", products.STEP)  # pieces of so many tokens go by ``linear``
    yield asked
    torch.backends.cuda.matmul.fp32_precision = "none"


@pytest.mark.parametrize("set_to, asked", [("none", {"tf32"}), ("ieee", {"ieee"}), ("tf32", {"tf32"})])
def test_a_gpu_is_asked_for_tf32_unless_something_else_was_chosen(precisions, set_to, asked):
    model = build("bert", "question-answering", num_layers=2)
    encoder, batches = describe(model), random_batches(model, "question-answering", [[9] * 64])
    torch.backends.cuda.matmul.fp32_precision = set_to
    estimate_curvature(encoder, batches, "question-answering", progress=False)
    assert precisions == asked
    precisions.clear()
    teacher = Teacher(encoder, batches)
    reconstruct_weights(teacher, random_masks(encoder), "question-answering", progress=False)
    assert precisions == asked and torch.backends.cuda.matmul.fp32_precision == set_to


def test_the_precision_is_put_back_where_the_work_fails():
    with pytest.raises(ZeroDivisionError), products.fast_products():
        raise ZeroDivisionError
    assert torch.backends.cuda.matmul.fp32_precision == "none"


@compares
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_reconstruction_has_the_same_weights_to_rounding(monkeypatch, family):
    """Both models' maps and all sums go by oneDNN, which gets multiples of a step."""
    torch.manual_seed(0)
    model = build(family, "classification", num_layers=2)
    encoder, batches = describe(model), random_batches(model, "classification", [[9, 4, 1], [7, 7, 2, 2], [8, 8]])
    weights, launched = [], []
    monkeypatch.setattr(products, "STEP", 2)
    for gain in (False, True):
        monkeypatch.setattr(products, "_gains", lambda gain=gain: gain)
        masks = random_masks(encoder)
        with Counted() as count:
            tuned = reconstruct_weights(Teacher(encoder, batches), masks, "classification", progress=False)
        weights.append(tuned.model.state_dict())
        launched.append(count.launches)
    assert launched[0]["_linear_pointwise"] == 0 and launched[0]["addmm"] > 0
    assert launched[1]["_linear_pointwise"] > 2 * 2 * 4 * 3  # four maps or more of a layer, and the sums besides
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)


@compares
@pytest.mark.parametrize("problem", ["classification", "question-answering"])
def test_the_curvature_is_the_same_to_rounding(monkeypatch, problem):
    """Maps, gradients of their inputs, and the sums of both, which are taken on the way back."""
    torch.manual_seed(0)
    model = build("bert", problem, num_layers=2)
    batches = random_batches(model, problem, [[9, 4, 1], [7, 7, 2, 2], [8, 8]])
    monkeypatch.setattr(products, "STEP", 2)
    monkeypatch.setattr(grams, "STEP", 2)
    monkeypatch.setattr(grams, "TOGETHER", 4)
    made, launched = [], []
    for gain in (False, True):
        monkeypatch.setattr(products, "_gains", lambda gain=gain: gain)
        with Counted() as count:
            made.append(estimate_curvature(describe(model), batches, problem, progress=False))
        launched.append(count.launches)
    assert launched[0]["_linear_pointwise"] == 0
    assert launched[1]["mm"] + launched[1]["addmm"] < (launched[0]["mm"] + launched[0]["addmm"]) / 2  # rests alone
    for name in ("attention_inputs", "attention_gradients", "ffn_inputs", "ffn_gradients"):
        for one, other in zip(getattr(made[1], name), getattr(made[0], name), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())
