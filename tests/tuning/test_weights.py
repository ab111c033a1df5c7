"""Reconstruction of every linear map, and what the curvature reads, against what they stand for."""

import itertools
from fractions import Fraction

import pytest
import torch
from tiny_models import CASES, PROBLEMS, TAGS, VECTORS, build, logits_of, random_batches, random_masks

from fastprune.importance.curvature import TEMPERATURE, estimate_curvature
from fastprune.model import losses
from fastprune.model.architectures import describe, layers_of, reads_first, reads_mean, task_head_of
from fastprune.model.losses import inputs_of
from fastprune.model.surgery import slice_model
from fastprune.problem import problem_of
from fastprune.tuning import weights
from fastprune.tuning.layerwise import Teacher, walk
from fastprune.tuning.weights import reconstruct_weights

LENGTHS = [[9, 7, 7, 4], [3, 9, 5, 6], [8, 9, 2, 9], [7, 3, 6, 5]]
INPUTS = ("query", "key", "value", "query_key_value", "ffn_input", "head")


def seen_by(model, linear, batches, first_token):
    """What a linear map reads and puts out when the whole model runs, [tokens, n] and [tokens, D]."""
    reads, puts = [], []
    for batch in batches:
        handle = linear.register_forward_hook(lambda _, args, output: reads.append(args[0]) or puts.append(output))
        logits_of(model, batch)
        handle.remove()
        rows = batch["attention_mask"].bool().clone()
        if first_token:
            rows[:, 1:] = False
        if reads[-1].ndim == 2:  # a pooled head reads one row an example
            rows = rows[:, 0]
        reads[-1], puts[-1] = reads[-1][rows], puts[-1][rows]
    return torch.cat(reads).double(), torch.cat(puts).double()


def original_of(encoder, masks, system):
    """The dense model's linear map that a system's is cut from, and the rows that are kept of it."""
    if system.kind == "head":
        linear = task_head_of(encoder.model)[0][system.index]
        return linear, torch.arange(linear.out_features)
    heads = masks.heads[system.index].repeat_interleave(encoder.head_size)
    attention, ffn = encoder.layers[system.index].blocks
    block, kept = (ffn, masks.filters[system.index]) if system.kind == "ffn_input" else (attention, heads)
    return block.reads[system.kind], block.rows(kept.nonzero().flatten())


@pytest.mark.parametrize("family, problem", CASES + TAGS + VECTORS)
def test_every_map_is_to_put_out_what_the_dense_model_does(family, problem):
    model = build(family, problem)
    encoder = describe(model)
    masks, batches = random_masks(encoder), random_batches(model, problem, LENGTHS)
    masks.heads[1], masks.filters[1] = 0, 0
    student = slice_model(encoder, masks)
    last = encoder.num_layers - 1
    reads_first_token = problem_of(problem).read_positions(model.config) == "first"
    first_token = frozenset({(last, "ffn")}) if reads_first_token else frozenset()
    seen = []
    for system in walk(Teacher(encoder, batches), student, first_token=first_token, every_map=True, progress=False):
        seen.append((system.kind, system.index))
        if system.kind in INPUTS:
            alone = bool(first_token) and seen[-1] in (("ffn_input", last), ("head", 0), ("head", 1))
            original, kept = original_of(encoder, masks, system)
            reads, _ = seen_by(student, system.projection, batches, alone)
            _, puts = seen_by(model, original, batches, alone)
            reads = torch.cat([reads, torch.ones(len(reads), 1)], 1)
            torch.testing.assert_close(system.moments.gram, reads.T @ reads, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(system.moments.cross, reads.T @ puts[:, kept], rtol=1e-4, atol=1e-3)
        with torch.no_grad():  # what comes later has to see it
            system.projection.weight.mul_(0.7)
    heads = [("head", index) for index in range(len(task_head_of(model)[0]))]
    names = list(encoder.layers[2].attention.reads)
    assert names == (["query_key_value"] if family.startswith("modernbert") else ["query", "key", "value"])
    attending = [(name, 2) for name in names if "keys shared" not in family or name == "value"]
    whole = [*attending, ("attention", 2), ("ffn_input", 2), ("ffn", 2)]
    assert seen == [("attention", 0), ("ffn_input", 0), ("ffn", 0), ("attention", 1), ("ffn", 1), *whole, *heads]


@pytest.mark.parametrize("family, problem", CASES + TAGS)
def test_task_head_is_what_makes_the_logits(family, problem):
    model = build(family, problem)
    (batch,) = random_batches(model, problem, [[5, 5]])
    with torch.no_grad():
        state = getattr(model, model.base_model_prefix)(**inputs_of(batch, "cpu")).last_hidden_state
        linears, between = task_head_of(model)
        if problem_of(problem).positions == "first":
            assert reads_first(model, problem) != reads_mean(model)
            state = state[:, 0] if reads_first(model, problem) else state.mean(1)  # there is no padding
        for linear in linears[:-1]:
            state = between(linear(state))
        logits = linears[-1](state)
    if problem == "question-answering":
        logits = logits.permute(2, 0, 1)[:, batch["attention_mask"].bool()]
    torch.testing.assert_close(logits, logits_of(model, batch))


def logit_error(model, dense, batches):
    return sum(float((logits_of(model, batch) - logits_of(dense, batch)).square().sum()) for batch in batches)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_solving_for_every_map_helps_on_other_examples(family, problem, monkeypatch):
    model = build(family, problem)
    encoder = describe(model)
    masks, teacher = random_masks(encoder), Teacher(encoder, random_batches(model, problem, LENGTHS * 12))
    others = random_batches(model, problem, LENGTHS * 4, seed=1)
    every = reconstruct_weights(teacher, masks, problem, progress=False).model
    monkeypatch.setattr(weights, "walk", lambda *args, every_map, **options: walk(*args, **options))
    outputs = reconstruct_weights(teacher, masks, problem, progress=False).model
    assert logit_error(every, model, others) < 0.95 * logit_error(outputs, model, others)
    for name in ("query", "key", "value"):  # nothing was cut before them
        first, same = (layers_of(one)[0].attention.reads[name] for one in (every, outputs))
        assert torch.equal(first.weight, same.weight)


@pytest.mark.parametrize(
    "family, problem, parted",
    [
        ("bert", "question-answering", True),
        ("bert", "token-classification", True),
        ("bert", "classification", False),  # the last layer and the head read one token of an example
        ("modernbert", "classification", False),  # the head reads the mean
    ],
)
def test_as_many_evenly_spaced_batches_are_walked_over_as_determine_the_widest_map(
    family, problem, parted, monkeypatch
):
    model = build(family, problem, num_filters=60)
    encoder, batches = describe(model), random_batches(model, problem, LENGTHS * 8)
    masks = random_masks(encoder)
    widest, tokens = max(16, int(masks.filters.sum(1).max())), Teacher(encoder, batches).tokens
    monkeypatch.setattr(weights, "TOKENS_PER_INPUT", Fraction(tokens, 2 * widest))
    made = reconstruct_weights(Teacher(encoder, batches), masks, problem, progress=False).model
    monkeypatch.setattr(weights, "TOKENS_PER_INPUT", tokens)
    want = reconstruct_weights(Teacher(encoder, batches[::2] if parted else batches), masks, problem, progress=False)
    for name, tensor in want.model.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name]), name


@pytest.mark.parametrize("lengths", [[[4, 3]], [[5, 4, 6], [3]], [[6, 5, 4, 6], [3, 4, 5, 6], [2]]])
def test_few_examples_do_no_harm(lengths):
    """Fewer tokens than unknowns, without and with an example held back: the ridge holds."""
    model = build(num_filters=60)
    encoder = describe(model)
    masks = random_masks(encoder)
    batches, others = (
        random_batches(model, "classification", data, seed=seed) for data, seed in ((lengths, 0), (LENGTHS * 4, 1))
    )
    tuned = reconstruct_weights(Teacher(encoder, batches), masks, "classification", progress=False).model
    assert logit_error(tuned, model, others) < 1.3 * logit_error(slice_model(encoder, masks), model, others)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_curvature_of_the_last_layer_reads_the_token_that_is_read_on(problem):
    model = build(problem=problem)
    encoder, batches = describe(model), random_batches(model, problem, LENGTHS)
    found = estimate_curvature(encoder, batches, problem, progress=False)
    for index, alone in ((1, False), (2, problem != "question-answering")):
        for kind in ("attention", "ffn"):
            reads, _ = seen_by(model, getattr(encoder.layers[index], kind).writes, batches, alone)
            torch.testing.assert_close(
                getattr(found, f"{kind}_inputs")[index], reads.T @ reads / len(reads), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(
    "logits", [[2.0, -1.0], [0.3, 12.0], [1.0, -2.0, 0.5], [0.0, 3.0, -1.0, 1.0], [4.0, -700.0, 3.0, -900.0, -900.0]]
)
def test_the_signs_average_out_to_the_gauss_newton_matrix(logits, monkeypatch):
    """Over all signs exactly, certain predictions and impossible classes included; of two classes by any one draw."""
    outer = []
    for signs in itertools.product([-1.0, 1.0], repeat=len(logits)):
        values = torch.tensor([logits], requires_grad=True)
        monkeypatch.setattr(losses, "random_signs", lambda like, _, signs=signs: torch.tensor([signs]))
        outputs = type("Output", (), {"logits": values})
        problem_of("classification").score(outputs, {}, TEMPERATURE, torch.Generator()).backward()
        outer.append(values.grad[0].outer(values.grad[0]))
    p = (torch.tensor(logits) / TEMPERATURE).softmax(-1)
    hessian = p.diag() - p.outer(p)
    torch.testing.assert_close(torch.stack(outer).mean(0), hessian, rtol=1e-4, atol=1e-6)
    if len(logits) == 2:
        assert all(torch.allclose(draw, hessian, rtol=1e-4, atol=1e-6) for draw in outer)
