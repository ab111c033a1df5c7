"""Kronecker-factored curvature of the output projections, without labels.

To second order, changing an output projection by ``D`` raises the divergence from the dense model's predictions by
``tr(D A D^T G)``: ``A`` is the second moment of the projection's inputs over the tokens, ``G`` that of the gradients at
its outputs (K-FAC, Martens & Grosse 2015, of the Gauss-Newton matrix). Where the Fisher of the masks asks what it
costs to zero a unit, this also tells what it costs once the other units have made up for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from fastprune import memory
from fastprune.errors import InputError
from fastprune.model.architectures import Encoder, reads_first
from fastprune.model.finite import check_finite
from fastprune.model.grams import add_gram, from_upper, symmetric, upper_of
from fastprune.model.passes import evenly_spaced, first_token_alone
from fastprune.model.products import STEP, fast_products
from fastprune.model.tensors import read_tensors
from fastprune.model.tokens import Tokens, send
from fastprune.problem import problem_of

EXAMPLES = 512
"""The factors settle long before the sample ends: they are taken from the batches of about this many examples."""

LOW_EFFORT_EXAMPLES = 256
"""The same with ``effort`` low."""

TEMPERATURE = 4.0
"""Softens the predictions, so that confident examples count as well."""


@dataclass(frozen=True)
class Curvature:
    """The factors of each layer's two output projections.

    Attributes
    ----------
    attention_inputs, ffn_inputs : list of L Tensors [n, n] float64
        Second moments of the inputs, per token that is read on; n is H * head_size, and I.
    attention_gradients, ffn_gradients : list of L Tensors [D, D] float64
        Second moments of the gradients at the outputs, summed over the tokens of an example.
    counts : dict of list of L int
        How many tokens or examples each factor is the mean of, by the names above.
    """

    attention_inputs: list[Tensor]
    attention_gradients: list[Tensor]
    ffn_inputs: list[Tensor]
    ffn_gradients: list[Tensor]
    counts: dict[str, list[int]]

    @classmethod
    def merge(cls, parts: Iterable[Curvature]) -> Curvature:
        """That of all the parts' examples, added up as they come; parts without any do not count.

        Raises
        ------
        InputError
            No part has any examples, or a factor is not finite.
        """
        counts: dict[str, list[int]] = {}
        factors: dict[str, list[Tensor]] = {}
        for part in parts:
            for name in _FACTORS:
                # The mean [n, n] or [D, D] of the parts' means, each with the weight of its tokens or examples.
                before, own = counts.get(name) or [0] * len(part.counts[name]), part.counts[name]
                counts[name] = [one + other for one, other in zip(before, own, strict=True)]
                new = getattr(part, name)
                old = factors.get(name) or new
                factors[name] = [
                    one if not more else other if not some else one + (other - one) * (more / (some + more))
                    for one, other, some, more in zip(old, new, before, own, strict=True)
                ]
        if not (counts and all(total for totals in counts.values() for total in totals)):
            raise InputError("none of the parts of the curvature has any examples; make them again from the sample")
        merged = cls(**factors, counts=counts)
        merged.check_finite()
        return merged

    def check_finite(self) -> None:
        """Raise InputError naming the layer where the sample's activations or gradients are NaN or too large.

        The diagonal of a factor is the sum of squares of every column, so that it shows all such values.
        """
        blocks = (("attention", self.attention_inputs), ("ffn", self.ffn_inputs))
        for index in range(len(self.ffn_inputs)):  # forwards: the first layer at fault is where it began
            for kind, factors in blocks:
                check_finite(factors[index].diagonal(), "activations", f"layer {index} {kind}")
        blocks = (("ffn", self.ffn_gradients), ("attention", self.attention_gradients))
        for index in reversed(range(len(self.ffn_gradients))):  # backwards, as the gradients go
            for kind, factors in blocks:
                check_finite(factors[index].diagonal(), "gradients", f"layer {index} {kind}")

    def save(self, path: str | Path) -> None:
        counts = {f"counts.{name}": torch.tensor(layers) for name, layers in self.counts.items()}
        save_file(
            counts
            | {
                f"{name}.{layer}": upper_of(factor)  # half of the bytes; float32 would move the costs by up to 4e-4
                for name in _FACTORS
                for layer, factor in enumerate(getattr(self, name))
            },
            str(path),
        )

    @classmethod
    def load(cls, path: str | Path) -> Curvature:
        tensors = read_tensors(path)
        try:
            counts = {name: tensors[f"counts.{name}"].tolist() for name in _FACTORS}
            factors = {
                name: [symmetric(from_upper(tensors[f"{name}.{layer}"])) for layer in range(len(counts[name]))]
                for name in _FACTORS
            }
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: holds no whole curvature ({error}); make it again from the sample") from error
        return cls(counts=counts, **factors)


_FACTORS = ("attention_inputs", "attention_gradients", "ffn_inputs", "ffn_gradients")


def estimate_curvature(
    encoder: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    problem: str,
    *,
    examples: int | None = None,
    seed: int = 0,
    shard: int = 0,
    shards: int = 1,
    progress: bool = True,
) -> Curvature:
    """Collect the factors in one forward and backward pass over an evenly spaced part of the sample.

    Parameters
    ----------
    encoder : Encoder
    batches : sequence of dict of Tensor
        Labels are not read.
    problem : str
    examples : int, optional
        Of about how many; by default ``EXAMPLES``.
    seed : int
        Of the random signs that make one backward pass stand for all classes.
    shard, shards : int
        Only every ``shards``-th of those batches, from number ``shard`` on. A shard may be empty: its factors are then
        zero. :meth:`Curvature.merge` puts the shards together.

    Returns
    -------
    Curvature
        On the CPU. Memory is that of one batch's activations plus the factors; a batch that does
        not fit is run in parts.

    Raises
    ------
    InputError
        Activations or gradients are NaN or too large; the layer is named. Or there is no memory for the factors.
    """
    _check_memory(encoder, batches)
    numbered = list(enumerate(evenly_spaced(batches, examples or EXAMPLES)))[shard::shards]
    most = max((len(batch["attention_mask"]) for _, batch in numbered), default=1)
    curvature = memory.retreat(partial(_estimate, encoder, numbered, problem, seed, progress), most)
    curvature.check_finite()
    return curvature


def _estimate(
    encoder: Encoder,
    numbered: Sequence[tuple[int, Mapping[str, Tensor]]],
    problem: str,
    seed: int,
    progress: bool,
    most: int,
) -> Curvature:
    """From batches with their numbers, at most so many examples at once."""
    model, layers = encoder.model.eval(), encoder.layers
    projections = {("attention", index): layer.attention.writes for index, layer in enumerate(layers)}
    projections |= {("ffn", index): layer.ffn.writes for index, layer in enumerate(layers)}
    inputs = {key: _square(linear.in_features, model.device) for key, linear in projections.items()}
    gradients = {key: _square(linear.out_features, model.device) for key, linear in projections.items()}
    generator = torch.Generator(device="cpu")
    tokens = dict.fromkeys(projections, 0)
    asked = problem_of(problem)
    first_alone = reads_first(model, problem)
    last = len(layers) - 1 if first_alone else None  # where only [CLS] is read on
    real = Tokens(*torch.empty(2, 0, dtype=torch.int64))  # those of the batch at hand that are no padding

    def listen(key):
        def read(values):
            return values[:, 0] if key[1] == last else real.taken(values)  # [tokens, n]

        def hook(_, args, output):
            values = read(args[0].detach())
            add_gram(inputs[key], values)
            tokens[key] += len(values)
            output.register_hook(learn)

        def learn(gradient):
            with fast_products():  # torch takes us out of it on the way back
                add_gram(gradients[key], read(gradient))

        return hook

    handles = [linear.register_forward_hook(listen(key)) for key, linear in projections.items()]
    # Only activations get gradients: the graph begins after the embeddings.
    embeddings = model.base_model.embeddings
    handles.append(embeddings.register_forward_hook(lambda _, args, output: output.requires_grad_()))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    seen = 0
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with ExitStack() as inside:
            inside.enter_context(fast_products())
            if first_alone:
                inside.enter_context(first_token_alone(model))
            for number, batch in tqdm(numbered, desc="curvature", unit="batch", disable=not progress):
                generator.manual_seed(seed + number)  # a batch has the same signs in whichever shard it is
                for part in _parts(encoder, batch, most):
                    real = Tokens.of(part["attention_mask"].bool(), model.device)
                    seen += len(part["attention_mask"])
                    there = {name: send(values, model.device) for name, values in part.items()}
                    asked.score(asked.run(model, there), there, TEMPERATURE, generator).backward()
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)
    counts, factors = {}, {}
    for kind in ("attention", "ffn"):
        keys = [(kind, index) for index in range(len(layers))]
        counts[f"{kind}_inputs"] = [tokens[key] for key in keys]
        counts[f"{kind}_gradients"] = [seen] * len(keys)
        # An empty shard has sums of zero, and stays at zero.
        factors[f"{kind}_inputs"] = [(symmetric(inputs[key]) / max(tokens[key], 1)).cpu() for key in keys]
        factors[f"{kind}_gradients"] = [(symmetric(gradients[key]) / max(seen, 1)).cpu() for key in keys]
    return Curvature(**factors, counts=counts)


def _parts(encoder: Encoder, batch: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """A batch, or as many examples of it at once as leave half of the memory free."""
    _, length = batch["attention_mask"].shape
    fit = memory.left(encoder.device) // 2 // graph_bytes(encoder, length)
    fit = min(fit, most)
    if fit < len(batch["attention_mask"]):
        step = STEP // math.gcd(STEP, length)  # examples whose tokens the products take without a rest
        fit = fit // step * step or max(fit, 1)
    return memory.parts(batch, fit)


def _check_memory(encoder: Encoder, batches: Sequence[Mapping[str, Tensor]]) -> None:
    """Refuse a model for whose factors, and one example beside them, there is no memory."""
    stream, filters = encoder.hidden_size, encoder.num_filters
    factors = 8 * (encoder.num_layers * (3 * stream**2 + filters**2) + 2 * filters**2)  # two more while one is made
    needed = factors + graph_bytes(encoder, max(batch["attention_mask"].shape[1] for batch in batches))
    if needed > (room := memory.left(encoder.device)):
        raise InputError(
            f"{room / 2**30:.2f} GiB of memory are left, and the curvature of this model takes {needed / 2**30:.2f} "
            "more, whatever the sample: give more memory (--memory, or the limit of the container)"
        )


def graph_bytes(encoder: Encoder, length: int) -> int:
    """About what an example of so many tokens leaves in memory for its backward pass."""
    numbers = 8 * encoder.hidden_size + 2 * encoder.num_filters  # a token and layer
    if encoder.model.config._attn_implementation != "sdpa":
        numbers += 3 * encoder.num_heads * length
    return encoder.num_layers * length * numbers * encoder.model.dtype.itemsize


def _square(size: int, device: torch.device) -> Tensor:
    return torch.zeros(size, size, dtype=torch.float64, device=device)
