"""The walk over the layers that mask tuning and weight reconstruction share (paper, section 3.4).

A sliced student goes beside its teacher, layer by layer, attention before FFN. At each output projection the walk
stops and hands out a least-squares system: the student's own inputs to the projection against what the teacher
puts out there. Whoever solves it changes the student's projection in place, and the walk goes on from the changed
student, so later systems see the errors that earlier ones left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fastprune.architectures import Encoder, Layer, layers_of
from fastprune.losses import inputs_of
from fastprune.masks import Masks

CACHE_BYTES = 2 << 30
"""Up to here one layer's activations are kept between solving and applying; above, they are computed again."""


@dataclass
class Moments:
    """Second moments of inputs ``X`` [tokens, n] with a column of ones, against targets ``B`` [tokens, D].

    They are all that a least-squares solver needs, whatever it solves for, and do not grow with the tokens.

    Attributes
    ----------
    gram : Tensor [n + 1, n + 1] float64
        ``[X 1]^T [X 1]``; its last entry is the number of tokens.
    cross : Tensor [n + 1, D] float64
        ``[X 1]^T B``.
    """

    gram: Tensor
    cross: Tensor

    @classmethod
    def zeros(cls, linear: nn.Linear) -> Moments:
        rows, options = linear.in_features + 1, {"dtype": torch.float64, "device": linear.weight.device}
        return cls(torch.zeros(rows, rows, **options), torch.zeros(rows, linear.out_features, **options))

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        self.gram += inputs.T @ inputs
        self.cross += inputs.T @ targets

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross)


@dataclass(frozen=True)
class System:
    """One projection of the student and what it should put out.

    ``moments.cross`` holds the teacher's output with its residual, less the student's residual, so that the
    projection (bias included) makes up for what the residual stream lacks. ``held_back`` are the same of the
    examples that were kept apart for choosing a regularisation.
    """

    index: int
    kind: Literal["attention", "ffn"]
    projection: nn.Linear
    moments: Moments
    held_back: Moments


@torch.no_grad()
def walk(teacher: Encoder, student: nn.Module, batches: Sequence[Mapping[str, Tensor]], *,
         teacher_masks: Masks | None = None, first_token: frozenset[tuple[int, str]] = frozenset(),
         hold_back: int | None = None, progress: bool = True) -> Iterator[System]:
    """Yield the student's systems in order: layer 0's attention, its FFN, layer 1's attention, ...

    Parameters
    ----------
    teacher : Encoder
        The dense model.
    student : PreTrainedModel
        Sliced from the same dense model. Projections that the caller changes between two systems stay changed.
    batches : sequence of dict of Tensor
    teacher_masks : Masks, optional
        The teacher runs under these masks. As published, the FFN target of a layer has all of the filters.
    first_token : set of (layer index, kind)
        Systems taken from the first ([CLS]) token of each example alone.
    hold_back : int, optional
        Every so many examples, one goes into ``held_back`` and not into ``moments``.

    Notes
    -----
    Each layer of either model runs once. Between layers the walk holds the teacher's and the student's hidden
    states of the sample (``tokens x D`` each) and, within a layer, the same again and the kept filters'
    activations (when they fit ``CACHE_BYTES``); never a system's ``tokens x n`` matrix.
    """
    teacher.model.eval()
    pads = [batch["attention_mask"].bool().to(teacher.device) for batch in batches]
    held = _held_back([len(pad) for pad in pads], hold_back, teacher.device)
    entries = [_layer_input(teacher, batch) for batch in batches]
    teacher_states = [states for states, _ in entries]
    student_states = list(teacher_states)
    options = [kwargs for _, kwargs in entries]
    del entries

    pairs = list(zip(teacher.layers, layers_of(student), strict=True))
    for index, (above, below) in enumerate(tqdm(pairs, desc="tuning", unit="layer", disable=not progress)):
        heads = filters = None
        if teacher_masks is not None:
            heads = teacher_masks.heads[index].repeat_interleave(teacher.head_size).to(teacher.device)
            filters = teacher_masks.filters[index].to(teacher.device)

        contexts = []
        moments, apart = Moments.zeros(below.attention_output), Moments.zeros(below.attention_output)
        for step, kwargs in enumerate(options):
            context = _context(above, teacher_states[step], kwargs)
            if heads is not None:
                context = context * heads
            target = above.attention_output(context) + teacher_states[step]
            contexts.append(_context(below, student_states[step], kwargs))
            rows = _rows(pads[step], (index, "attention") in first_token)
            _add(moments, apart, rows, held[step], contexts[step], target - student_states[step])
            teacher_states[step] = above.attention_norm(target)
        yield System(index, "attention", below.attention_output, moments, apart)
        for step, context in enumerate(contexts):
            student_states[step] = below.attention_norm(below.attention_output(context) + student_states[step])
        del contexts, context

        tokens = sum(state[..., 0].numel() for state in student_states)
        cached = tokens * below.ffn_output.in_features * student_states[0].element_size() <= CACHE_BYTES
        activations = []
        moments, apart = Moments.zeros(below.ffn_output), Moments.zeros(below.ffn_output)
        for step in range(len(batches)):
            activation = above.activation(above.ffn_input(teacher_states[step]))
            target = above.ffn_output(activation) + teacher_states[step]
            kept = below.activation(below.ffn_input(student_states[step]))
            rows = _rows(pads[step], (index, "ffn") in first_token)
            _add(moments, apart, rows, held[step], kept, target - student_states[step])
            if cached:
                activations.append(kept)
            if filters is not None:
                target = above.ffn_output(activation * filters) + teacher_states[step]
            teacher_states[step] = above.ffn_norm(target)
        yield System(index, "ffn", below.ffn_output, moments, apart)
        for step, state in enumerate(student_states):
            kept = activations[step] if cached else below.activation(below.ffn_input(state))
            student_states[step] = below.ffn_norm(below.ffn_output(kept) + state)
        del activations, kept


class _Reached(Exception):
    """Ends a forward pass at the module whose input was wanted."""


def _input_of(module: nn.Module, run) -> tuple[tuple, dict]:
    """The arguments that ``run()`` calls ``module`` with; the rest of the pass is not computed."""
    seen = []

    def stop(_, args, kwargs):
        seen.append((args, kwargs))
        raise _Reached

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


def _layer_input(encoder: Encoder, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict]:
    """Hidden states into the first layer [B, T, D], and the attention arguments that every layer gets."""
    inputs = inputs_of(batch, encoder.device)
    args, kwargs = _input_of(encoder.layers[0].module, lambda: encoder.model(**inputs))
    if len(args) > 1:  # BERT's encoders pass the attention mask by position
        kwargs = {"attention_mask": args[1], **kwargs}
    return args[0], kwargs


def _context(layer: Layer, states: Tensor, kwargs: dict) -> Tensor:
    """The heads' contexts [B, T, n]: the input of the attention output projection."""
    args, _ = _input_of(layer.attention_output, lambda: layer.module(states, **kwargs))
    return args[0]


def _rows(attention_mask: Tensor, first_token: bool) -> Tensor:
    """Which tokens [B, T] enter a system."""
    if not first_token:
        return attention_mask
    rows = torch.zeros_like(attention_mask)
    rows[:, 0] = True
    return rows


def _held_back(sizes: list[int], hold_back: int | None, device: torch.device) -> list[Tensor]:
    """For each batch, which of its examples [B] are held back."""
    order = torch.arange(sum(sizes), device=device)
    held = torch.zeros_like(order, dtype=torch.bool) if hold_back is None else order % hold_back == hold_back - 1
    return list(held.split(sizes))


def _add(moments: Moments, apart: Moments, rows: Tensor, held: Tensor, inputs: Tensor, targets: Tensor) -> None:
    """Add a batch's tokens ``rows`` [B, T] to ``moments``, those of ``held`` [B] examples to ``apart``."""
    for system, chosen in ((moments, rows & ~held[:, None]), (apart, rows & held[:, None])):
        if chosen.any():
            system.add(inputs[chosen], targets[chosen])
