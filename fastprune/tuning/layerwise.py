"""The walk over the layers that mask tuning and weight reconstruction share (paper, section 3.4).

A sliced student goes beside its teacher, layer by layer, attention before FFN. At each output projection, and if
wanted at every other linear map, the walk stops and yields a least-squares system: the student's own inputs to the
projection against the teacher's outputs there. The caller that solves it changes the student's projection in place, and
the walk goes on from the changed student, so later systems see the errors that earlier ones left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
import transformers
from torch import Tensor, nn
from tqdm import tqdm

from fastprune import memory
from fastprune.memory import Tensors
from fastprune.model.architectures import Block, Encoder, layers_of, norm_of, reads_mean, task_head_of
from fastprune.model.finite import check_finite
from fastprune.model.masks import Masks
from fastprune.model.passes import evenly_spaced, layer_inputs, units_of
from fastprune.model.tokens import Tokens, send
from fastprune.processes import ALONE, Group
from fastprune.tuning.moments import Moments

Map = Literal["query", "key", "value", "query_key_value", "attention", "ffn_input", "ffn", "head"]
"""A linear map of a layer, or of the task head."""


@dataclass(frozen=True)
class System:
    """One projection of the student and its target outputs.

    Of an output projection, ``moments.cross`` holds the teacher's output with its residual, less the student's
    residual, so that the projection (bias included) makes up for what the residual stream lacks. Of any other linear
    map it holds the outputs of the same rows of the teacher's map. ``held_back`` are the same of the examples that were
    kept apart for choosing a regularisation. The task head's ``index`` counts its own linear maps.
    """

    index: int
    kind: Map
    projection: nn.Linear
    moments: Moments
    held_back: Moments

    def __post_init__(self) -> None:
        """Raise InputError naming the layer and the map unless the system is finite."""
        where = f"the task head, map {self.index}" if self.kind == "head" else f"layer {self.index} {self.kind}"
        sums = [
            values.sum()  # NaN and infinity stay in it; the diagonal alone shows every input that is not finite
            for moments in (self.moments, self.held_back)
            for values in (moments.gram.diagonal(), moments.cross)
        ]
        check_finite(torch.stack(sums), "activations", where)


class Teacher:
    """The dense model on a sample, layer by layer.

    Parameters
    ----------
    encoder : Encoder
    batches : sequence of dict of Tensor
        Labels are not read.
    masks : Masks, optional
        The teacher runs under these masks. As published, the FFN target of a layer has all of the filters.
    keep : bool
        Keep the targets of all layers, so that the next walk over the same sample does not run the teacher again;
        only done without masks, and where there is memory for them.
    group : Group
        The processes that walk together: the batches are those of the whole sample, and this one runs its share.
    """

    @torch.no_grad()
    def __init__(
        self,
        encoder: Encoder,
        batches: Sequence[Mapping[str, Tensor]],
        masks: Masks | None = None,
        *,
        keep: bool = False,
        group: Group = ALONE,
    ):
        encoder.model.eval()
        self.encoder, self.masks, self.batches, self.group = encoder, masks, group.share(batches), group
        self._whole = batches
        pads = [batch["attention_mask"].bool().cpu() for batch in batches]
        numbers = torch.arange(sum(map(len, pads))).split([len(pad) for pad in pads])
        self.pads, self.numbers = group.share(pads), group.share(numbers)  # of the examples
        self.examples, self.tokens = sum(map(len, pads)), sum(int(pad.numpy().sum()) for pad in pads)  # of the sample
        self.options: list[list[dict]] = []
        self.state_bytes = encoder.hidden_size * encoder.model.dtype.itemsize * sum(pad.numel() for pad in self.pads)
        targets = 2 * encoder.num_layers * self.state_bytes

        self._keep = keep and masks is None and targets <= memory.left(encoder.device) // 4
        self._kept: dict[bool, list[list[Tensor]]] = {}  # of walks with the first token alone in the end, or with all

    def of_enough(self, tokens: int) -> Teacher:
        """One on about so many tokens, in evenly spaced batches; this one if it has no more, or too few for a group."""
        if self.tokens <= tokens:
            return self
        some = evenly_spaced(self._whole, -(-self.examples * tokens // self.tokens))
        return self if len(some) < self.group.size else Teacher(self.encoder, some, self.masks, group=self.group)

    @torch.no_grad()
    def begin(self) -> Iterator[Tensor]:
        """Hidden states into the first layer [B, T, D], batch by batch: made anew for every walk."""
        self.options = []
        for batch in self.batches:
            states, options = layer_inputs(self.encoder, batch)
            self.options.append(options)
            yield states

    def targets(self, states: Tensors, *, first_alone: bool = False) -> Iterator[Iterator[Tensor]]:
        """For one block after the other what it adds up to, ahead of a norm behind it: a tensor [B, T, D] per batch.

        Parameters
        ----------
        states : sequence of Tensor [B, T, D]
            From :meth:`begin`: what the block reads. A batch's becomes what the next block reads when its target is
            asked for, so that the teacher's states are held once and its targets not at all.
        first_alone : bool
            Of the last layer the first token alone, [B, 1, D].
        """
        notes: list[list[Tensor]] = []
        known = self._kept.get(first_alone)
        for number, (index, block) in enumerate(self._blocks()):
            width = 1 if first_alone and index == self.encoder.num_layers - 1 else None
            targets = self._of_block(index, block, states, known[number] if known else None, width)
            if self._keep and known is None:
                notes.append([])
                targets = _noted(targets, notes[-1])
            yield targets
        if self._keep:
            self._kept.setdefault(first_alone, notes)

    def _blocks(self) -> Iterator[tuple[int, Block]]:
        for index, layer in enumerate(self.encoder.layers):
            for block in layer.blocks:
                yield index, block

    @torch.no_grad()
    def _of_block(
        self, index: int, block: Block, states: Tensors, kept: list[Tensor] | None, width: int | None
    ) -> Iterator[Tensor]:
        """Under masks, as published, the target of an FFN has all filters, and only the way on from it has not.

        ``width`` is how many of the tokens, from the first on, are gone on with.
        """
        mask = self._mask(index, block)
        for step, options in enumerate(self.options):
            if kept:
                target = way_on = kept[step]
            else:
                units, state = units_of(block, states[step], options[index])[:, :width], states[step][:, :width]
                if mask is not None and block.kind == "attention":
                    units = units * mask
                target = way_on = block.writes(units) + state
                if mask is not None and block.kind == "ffn":
                    way_on = block.writes(units * mask) + state
            states[step] = block.after(way_on)
            yield target

    def _mask(self, index: int, block: Block) -> Tensor | None:
        """Over the inputs of a block's output projection, [H * head_size] or [I]."""
        if self.masks is None:
            return None
        if block.kind == "attention":
            return send(self.masks.heads[index].repeat_interleave(self.encoder.head_size), self.encoder.device)
        return send(self.masks.filters[index], self.encoder.device)


@torch.no_grad()
def walk(
    teacher: Teacher,
    student: transformers.PreTrainedModel,
    *,
    spans: Sequence[tuple[int, int]] | None = None,
    first_token: frozenset[tuple[int, str]] = frozenset(),
    hold_back: int | None = None,
    every_map: bool = False,
    progress: bool = True,
) -> Iterator[System]:
    """Yield the student's systems in order: layer 0's attention, its FFN, layer 1's attention, ...

    Parameters
    ----------
    teacher : Teacher
    student : PreTrainedModel
        Sliced from the teacher's model. Projections that the caller changes between two systems stay changed.
    spans : sequence of (int, int), optional
        Of each layer of the student its number in the teacher, and that of the last layer that it stands for: its FFN
        is to give what that one gives. By default the student has all layers.
    first_token : set of (layer index, kind)
        Systems taken from the first ([CLS]) token of each example alone. The inputs of the FFN go with its output,
        the task head with the last FFN. With the last layer's attention among them, either model goes on with that
        token alone behind it.
    hold_back : int, optional
        One in this many examples goes into ``held_back`` and not into ``moments``.
    every_map : bool
        Also stop at query, key and value (except layer 0's, whose inputs are the teacher's own), at the FFN's input
        projection and at the task head's linear maps. The teacher must be without masks.

    Raises
    ------
    InputError
        The activations of the sample at a map are NaN or too large.

    Notes
    -----
    Each layer of either model runs once. The walk holds the student's hidden states of the sample and the teacher's
    (``tokens x D`` each), and within a block the student's contexts, on disk where memory is short, or the kept
    filters' activations where there is memory for them; never a system's ``tokens x n`` matrix.
    """
    device = teacher.encoder.device
    # Of the student, and of the teacher, which goes along with it.
    states, wanted = (memory.tensors(2 * teacher.state_bytes, device) for _ in range(2))
    for entry in teacher.begin():
        states.append(entry)
        wanted.append(entry)
    read = _Read(teacher, hold_back)
    spans = spans or [(number, number) for number in range(teacher.encoder.num_layers)]
    pairs = zip(spans, layers_of(student), strict=True)
    blocks = [(span, block) for span, layer in pairs for block in layer.blocks]
    final, _ = spans[-1]
    first_alone = (final, "attention") in first_token
    ahead = teacher.targets(wanted, first_alone=first_alone)
    _go_on(ahead, 2 * spans[0][0])
    bar = tqdm(blocks, "tuning", unit="block", disable=not progress)
    for (index, last), block in bar:
        bar.set_postfix_str(teacher.group.told, refresh=False)
        alone, attending = (index, block.kind) in first_token, block.kind == "attention"
        width = 1 if first_alone and index == final else None  # how many of the tokens are gone on with
        if every_map and not (attending and index == 0):
            solved = {name: block.reads[name] for name in block.solved}
            first = alone and not attending  # keys and values: of every token
            yield from _systems(index, solved, block.before, states, wanted, read, first=first)
        if not attending:
            _go_on(ahead, 2 * (last - index))
        targets = next(ahead)
        kept = memory.tensors(teacher.state_bytes * block.writes.in_features // teacher.encoder.hidden_size, device)
        # A head's context costs far more to make again than a filter's activation.
        cached = attending or isinstance(kept, list)
        moments, apart = (Moments.zeros(block.writes, upper=every_map) for _ in range(2))
        tokens = read.tokens(alone)
        for step, (options, target) in enumerate(zip(teacher.options, targets, strict=True)):
            state = states[step]
            units = units_of(block, state, options[index])[:, :width]
            lacks = target - state[:, :width]
            for system, chosen in zip((moments, apart), tokens[step], strict=True):
                if len(chosen):
                    system.add(chosen.taken(units), chosen.taken(lacks))
            if cached:
                kept.append(units)
        yield System(index, block.kind, block.writes, *Moments.over_all(teacher.group, moments, apart))
        for step, options in enumerate(teacher.options):
            state = states[step]
            units = kept[step] if cached else units_of(block, state, options[index])[:, :width]
            if cached:
                kept[step] = _NONE
            states[step] = block.after(block.writes(units) + state[:, :width])
        del kept, units, state, lacks
    next(ahead, None)  # the teacher has noted all targets when it is asked for one more
    if every_map:
        yield from _head_systems(teacher, student, states, wanted, read, first=alone)


def _go_on(targets: Iterator[Iterator[Tensor]], blocks: int) -> None:
    """The teacher goes on by this many blocks that the student has not."""
    for passed in islice(targets, blocks):
        for _ in passed:
            pass


def _head_systems(
    teacher: Teacher,
    student: transformers.PreTrainedModel,
    states: Tensors,
    wanted: Tensors,
    read: _Read,
    *,
    first: bool,
) -> Iterator[System]:
    """Of the task head's linear maps, in order; what they read takes the place of the states."""
    linears, between = task_head_of(student)
    originals, _ = task_head_of(teacher.encoder.model)
    norm = norm_of(student)
    if reads_mean(student):
        for step, pad in enumerate(teacher.pads):
            pad = send(pad, teacher.encoder.device)
            states[step], wanted[step] = (mean_of(norm(some[step]), pad) for some in (states, wanted))
        first, norm = True, nn.Identity()  # the mean is all that is left
    for index, (linear, original) in enumerate(zip(linears, originals, strict=True)):
        yield from _systems(index, {"head": linear}, norm, states, wanted, read, first=first)
        if index < len(linears) - 1:
            for step in range(len(states)):
                states[step] = between(linear(norm(states[step])))
                wanted[step] = between(original(norm(wanted[step])))
            norm = nn.Identity()


TOKENS_PER_INPUT = 256
"""Far more than determine a map; for those that read the stream 64 raised the divergence by up to 3%."""


class _Read:
    """Which tokens of each batch go into a system, and which are held back: found once for all systems.

    Parameters
    ----------
    teacher : Teacher
        With the sample.
    hold_back : int, optional
        Every how many examples one is held back.
    """

    def __init__(self, teacher: Teacher, hold_back: int | None):
        self.teacher, self._group = teacher, hold_back or 0
        self._known: dict[tuple[bool, int], list[tuple[Tokens, Tokens]]] = {}

    def tokens(self, first: bool, every: int = 1) -> list[tuple[Tokens, Tokens]]:
        """Of each batch those of the system, and those held back.

        Parameters
        ----------
        first : bool
            The first token ([CLS]) of each example, not all that are no padding.
        every : int
            One in so many groups of examples, each with one that is held back.
        """
        if (first, every) not in self._known:
            self._known[first, every] = [
                self._of_batch(pad[:, :1] if first else pad, numbers, every)
                for pad, numbers in zip(self.teacher.pads, self.teacher.numbers, strict=True)
            ]
        return self._known[first, every]

    def _of_batch(self, pad: Tensor, numbers: Tensor, every: int) -> tuple[Tokens, Tokens]:
        taken = numbers // (self._group or 1) % every == 0
        held = numbers % self._group == self._group - 1 if self._group else torch.zeros_like(taken)
        device = self.teacher.encoder.device
        system, apart = (Tokens.of(pad & rows[:, None], device) for rows in (taken & ~held, taken & held))
        return system, apart


_NONE = torch.empty(0)


def _noted(targets: Iterator[Tensor], notes: list[Tensor]) -> Iterator[Tensor]:
    for target in targets:
        notes.append(target)
        yield target


def _systems(
    index: int,
    linears: Mapping[Map, nn.Linear],
    norm: nn.Module,
    states: Tensors,
    wanted: Tensors,
    read: _Read,
    *,
    first: bool,
) -> Iterator[System]:
    """Of linear maps that all read the norm of ``states`` where the teacher's read that of ``wanted``.

    The weights of maps and norm are still the teacher's. Where there are more than ``TOKENS_PER_INPUT`` tokens for each
    input, they are taken from evenly spaced examples.
    """
    if not linears:
        return
    one = next(iter(linears.values()))
    moments, apart = (Moments.zeros(one, one.in_features, upper=True) for _ in range(2))
    whole = read.teacher.examples if first else read.teacher.tokens
    every = max(whole // (TOKENS_PER_INPUT * one.in_features), 1)
    for step, tokens in enumerate(read.tokens(first, every)):
        if any(map(len, tokens)):
            student, teacher = states[step], wanted[step]
            for system, chosen in zip((moments, apart), tokens, strict=True):
                if len(chosen):
                    system.add(norm(chosen.taken(student)), norm(chosen.taken(teacher)))
    moments, apart = Moments.over_all(read.teacher.group, moments, apart)
    for kind, linear in linears.items():
        if linear.out_features:
            yield System(index, kind, linear, moments.through(linear), apart.through(linear))


def mean_of(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean over the tokens of states [B, T, D] that count [B, T], as a single token: [B, 1, D]."""
    return (states * attention_mask[..., None]).sum(1, keepdim=True) / attention_mask.sum(1)[:, None, None]
