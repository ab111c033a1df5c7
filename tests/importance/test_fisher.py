import pytest
import torch
from tiny_models import CASES, PROBLEMS, TAGS, VECTORS, build, one_by_one, random_batches

from fastprune.errors import InputError
from fastprune.importance.fisher import Fisher, estimate_fisher
from fastprune.model.architectures import describe
from fastprune.model.losses import IGNORED
from fastprune.problem import problem_of

LENGTHS = [[9, 4, 6], [5, 3]]


def fisher_of(model, batches, problem, estimator="per_sample"):
    return estimate_fisher(describe(model), batches, problem, estimator=estimator, progress=False)


def assert_same(got, want, **tolerances):
    torch.testing.assert_close(got.head_grads, want.head_grads, **tolerances)
    torch.testing.assert_close(got.filter_grads, want.filter_grads, **tolerances)


def loss_of(model, example, problem):
    """Transformers' own, which is a mean over tags; that of vectors, which it has not, is the problem's."""
    if problem == "embedding":
        return problem_of(problem).loss(problem_of(problem).run(model, example), example).sum()
    tags = (example["labels"] != IGNORED).sum() if problem == "token-classification" else 1
    return model(**example).loss * tags


@torch.no_grad()
def finite_differences(model, example, problem, step):
    """Central differences of the loss, the columns of the output projections being scaled."""

    def slope(columns):
        saved = columns.clone()
        losses = []
        for scale in (1 + step, 1 - step):
            columns.copy_(saved * scale)
            losses.append(loss_of(model, example, problem))
        columns.copy_(saved)
        return (losses[0] - losses[1]) / (2 * step)

    encoder = describe(model)
    size = encoder.head_size
    heads = [
        [slope(layer.attention.writes.weight[:, size * head : size * (head + 1)]) for head in range(4)]
        for layer in encoder.layers
    ]
    filters = [
        [slope(layer.ffn.writes.weight[:, filter]) for filter in range(encoder.num_filters)] for layer in encoder.layers
    ]
    return torch.tensor(heads), torch.tensor(filters)


@pytest.mark.parametrize("family, problem", CASES + TAGS + VECTORS)
def test_rows_are_single_example_gradients(family, problem):
    model = build(family, problem, num_layers=2, num_filters=6).double()
    lengths = LENGTHS if problem in (*PROBLEMS, "image-classification") else [[6]]
    batches = random_batches(model, problem, lengths)
    for batch in batches:
        if problem == "regression":
            batch["labels"] = batch["labels"].double()
    fisher = fisher_of(model, batches, problem)
    rows = sum(map(len, lengths))
    assert fisher.head_grads.shape == (rows, 2, 4) and fisher.filter_grads.shape == (rows, 2, 6)
    rounds = family.startswith(("deberta", "modernbert"))  # their attention is in float32 whatever the model is in
    step, near = (5e-3, 2e-4) if rounds else (1e-4, 1e-6)
    for row, example in enumerate(one_by_one(batches, problem)):
        heads, filters = finite_differences(model, example, problem, step)
        torch.testing.assert_close(fisher.head_grads[row], heads.float(), rtol=100 * near, atol=near)
        torch.testing.assert_close(fisher.filter_grads[row], filters.float(), rtol=100 * near, atol=near)
    assert fisher.head_grads.abs().max() > 1e-2 and fisher.filter_grads.abs().max() > 1e-2


@pytest.mark.parametrize("family, problem", CASES + TAGS + VECTORS)
def test_rows_do_not_depend_on_batch_or_padding(family, problem):
    model = build(family, problem)
    batches = random_batches(model, problem, LENGTHS)
    together, alone = (fisher_of(model, data, problem) for data in (batches, one_by_one(batches, problem)))
    assert_same(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_per_batch_is_the_mean_of_per_sample(problem):
    model = build("bert", problem)
    batches = random_batches(model, problem, LENGTHS)
    rows, means = (fisher_of(model, batches, problem, kind) for kind in ("per_sample", "per_batch"))
    want = Fisher(
        *(torch.stack([part.mean(0) for part in grads.split([3, 2])]) for grads in (rows.head_grads, rows.filter_grads))
    )
    assert_same(means, want, rtol=1e-4, atol=1e-6)


def test_estimators_agree_at_batch_size_one():
    model = build()
    singles = one_by_one(random_batches(model, "classification", LENGTHS))
    assert_same(
        fisher_of(model, singles, "classification", "per_batch"),
        fisher_of(model, singles, "classification"),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("problem", PROBLEMS)
def test_loss_is_that_of_transformers(problem):
    model = build("roberta", problem)
    batch = random_batches(model, problem, [[8, 5, 7]])[0]
    with torch.no_grad():
        outputs = model(**batch)
    losses = problem_of(problem).loss(outputs, batch)
    assert losses.shape == (3,)
    torch.testing.assert_close(losses.mean(), outputs.loss)


def test_loss_of_probabilities():
    model = build()
    batch = random_batches(model, "classification", [[8, 5]])[0]
    with torch.no_grad():
        outputs = model(input_ids=batch["input_ids"])
    soft = batch | {"labels": torch.nn.functional.one_hot(batch["labels"], 3).float()}
    torch.testing.assert_close(
        problem_of("classification").loss(outputs, soft), problem_of("classification").loss(outputs, batch)
    )


def test_dropout_is_off():
    model = build(hidden_dropout_prob=0.5).train()
    batches = random_batches(model, "classification", LENGTHS)
    assert_same(
        fisher_of(model, batches, "classification"), fisher_of(model, batches, "classification"), rtol=0, atol=0
    )


@pytest.mark.parametrize("fails", [False, True])
def test_weights_are_left_as_they_were(fails):
    model = build()
    frozen = model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = random_batches(model, "classification", LENGTHS)
    if fails:
        batches[1]["labels"] = torch.tensor([0, 7])
        with pytest.raises(IndexError):
            fisher_of(model, batches, "classification")
    else:
        fisher_of(model, batches, "classification")
    assert not frozen.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters() if parameter is not frozen)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_importance_is_the_sum_of_squares():
    heads, filters = torch.randn(6, 2, 3), torch.randn(6, 2, 5)
    fisher = Fisher(heads, filters)
    torch.testing.assert_close(fisher.head_importance, (heads.double() ** 2).sum(0))
    torch.testing.assert_close(fisher.filter_importance, (filters.double() ** 2).sum(0))


def test_file(tmp_path):
    fisher = Fisher(torch.randn(4, 2, 3), torch.randn(4, 2, 5))
    fisher.save(tmp_path / "fisher.safetensors")
    assert_same(Fisher.load(tmp_path / "fisher.safetensors"), fisher, rtol=0, atol=0)


@pytest.mark.parametrize("estimator", ["per_sample", "per_batch"])
@pytest.mark.parametrize("value", [float("nan"), 1e38])
def test_gradients_that_are_not_finite_are_named_by_layer(estimator, value):
    model = build(problem="regression")
    batches = random_batches(model, "regression", LENGTHS)
    with torch.no_grad():
        model.classifier.weight[0, 0] = value
    with pytest.raises(InputError, match="the gradients of the sample at layer 2 ffn are not finite"):
        fisher_of(model, batches, "regression", estimator)


def test_the_largest_gradients_that_float32_holds_have_finite_squares():
    fisher = Fisher(torch.full((300, 2, 3), 3e38), torch.full((300, 2, 5), 3e38))
    assert fisher.head_importance.isfinite().all() and fisher.filter_importance.isfinite().all()
    assert float(fisher.head_importance[0, 0]) == pytest.approx(300 * 9e76)
