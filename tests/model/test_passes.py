"""A last layer that goes on with the first token alone, where the task head reads no other."""

import pytest
import torch
from tiny_models import EVERY, build, logits_of, random_batches

from fastprune.model.architectures import layers_of, reads_first
from fastprune.model.passes import first_token_alone

READ_FIRST = [family for family in EVERY if reads_first(build(family), "classification")]


@pytest.mark.parametrize("family", READ_FIRST)
def test_the_outputs_are_those_of_the_whole_layer(family):
    model = build(family)
    (batch,) = random_batches(model, "classification", [[9, 4, 7]])
    last = layers_of(model)[-1]
    with torch.no_grad():
        widths: list[int] = []
        hooks = [
            block.writes.register_forward_hook(lambda _, given, output: widths.append(output.shape[1]))
            for block in last.blocks
        ]
        want = logits_of(model, batch)
        with first_token_alone(model):
            got = logits_of(model, batch)
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        assert widths[0] == widths[1] > 1 and widths[2:] == [1, 1]
        assert torch.equal(logits_of(model, batch), want)  # afterwards the model is what it was
    assert {"bert", "deberta-v2", "modernbert", "vit"} <= set(READ_FIRST)
