"""Parts of a forward pass: what goes into the layers, and what comes out of a block's units."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import transformers
from torch import Tensor, nn

from fastprune.model.architectures import Block, Encoder, kinds_of, layers_of
from fastprune.model.losses import inputs_of


class _Reached(Exception):
    """Ends a forward pass at the module whose input was wanted."""


def _input_of(module: nn.Module, run) -> tuple[tuple, dict]:
    """The arguments that ``run()`` calls ``module`` with; the rest of the pass is not computed.

    Where ``run()`` ends without it, what it returns is what the module would be called with.
    """
    seen = []

    def stop(_, args, kwargs):
        seen.append((args, kwargs))
        raise _Reached

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        seen.append(((run(),), {}))
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


def layer_inputs(encoder: Encoder, batch: Mapping[str, Tensor]) -> tuple[Tensor, list[dict]]:
    """Hidden states into the first layer [B, T, D], and the attention arguments that each layer gets."""
    inputs = inputs_of(batch, encoder.device)
    modules = [layer.module for layer in encoder.layers]
    if kinds_of(encoder.model.config) is None:
        calls = [_input_of(modules[0], lambda: encoder.model(**inputs))] * len(modules)
    else:
        with _handing_on(modules) as calls:
            encoder.model(**inputs)
    names = list(inspect.signature(modules[0].forward).parameters)  # some encoders pass masks and biases by position
    return calls[0][0][0], [dict(zip(names[1:], args[1:])) | kwargs for args, kwargs in calls]


@contextmanager
def _handing_on(layers: Sequence[nn.Module]) -> Iterator[list[tuple[tuple, dict]]]:
    """Inside a ``with`` block layers hand on what they get; their arguments are noted in the list."""
    calls: list[tuple[tuple, dict]] = []

    def hand_on(states: Tensor, *args, **kwargs) -> Tensor:
        calls.append(((states, *args), kwargs))
        return states

    try:
        for layer in layers:
            layer.forward = hand_on
        yield calls
    finally:
        for layer in layers:
            del layer.forward


def units_of(block: Block, states: Tensor, options: Mapping) -> Tensor:
    """The inputs of a block's output projection [B, T, n]: the heads' contexts, or the filters' activations."""
    options = options if block.kind == "attention" else {}
    args, _ = _input_of(block.writes, lambda: block.mix(block.before(states), **options))
    return args[0][..., : block.writes.in_features]  # without units, the states go through


def evenly_spaced(batches: Sequence[Mapping[str, Tensor]], wanted: int) -> list[Mapping[str, Tensor]]:
    """Batches of about ``wanted`` examples, evenly spaced from the first on; or all of them."""
    examples = sum(len(next(iter(batch.values()))) for batch in batches)
    if examples <= wanted:
        return list(batches)
    number = -(-len(batches) * wanted // examples)  # rounded up, so that there is always one
    return [batches[place * examples // wanted] for place in range(number)]


@contextmanager
def first_token_alone(model: transformers.PreTrainedModel) -> Iterator[None]:
    """Inside a ``with`` block a model's last layer goes on with the first token alone behind its attention.

    It is for task heads that read no other token. What the last hidden states hold of the others is then not theirs.
    """
    attention, ffn = layers_of(model)[-1].blocks
    hooks = [
        module.register_forward_pre_hook(lambda _, given: (given[0][:, :1], *given[1:]))
        for module in (attention.writes, attention.after, ffn.before)  # a residual of all tokens is added in between
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
