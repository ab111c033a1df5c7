"""Kronecker-factored curvature of the output projections, without labels.

To second order, changing an output projection by ``D`` raises the divergence from the dense model's predictions by
``tr(D A D^T G)``: ``A`` is the second moment of the projection's inputs over the tokens, ``G`` that of the gradients at
its outputs (K-FAC, Martens & Grosse 2015, of the Gauss-Newton matrix). Where the Fisher of the masks asks what it
costs to zero a unit, this also tells what it costs once the other units have made up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from fastprune.model.architectures import Encoder
from fastprune.model.losses import gauss_newton_score, inputs_of
from fastprune.tuning.layerwise import read_tokens

EXAMPLES = 512
"""The factors settle long before the sample ends: they are taken from at most about so many of its examples."""

TEMPERATURE = 4.0
"""Softens the predictions, so that confident examples count as well."""

BLOCK = 256
"""Second moments are symmetric: they are added up in blocks of so many rows, from the diagonal on."""


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
    def merge(cls, parts: Sequence[Curvature]) -> Curvature:
        """That of all the parts' examples."""
        counts = {name: [sum(layer) for layer in zip(*(part.counts[name] for part in parts))] for name in _FACTORS}
        return cls(
            counts=counts,
            **{
                name: [
                    sum(getattr(part, name)[layer] * (part.counts[name][layer] / total) for part in parts)
                    for layer, total in enumerate(counts[name])
                ]
                for name in _FACTORS
            },
        )

    def save(self, path: str | Path) -> None:
        counts = {f"counts.{name}": torch.tensor(layers) for name, layers in self.counts.items()}
        save_file(
            counts
            | {
                f"{name}.{layer}": factor.contiguous()
                for name in _FACTORS
                for layer, factor in enumerate(getattr(self, name))
            },
            str(path),
        )

    @classmethod
    def load(cls, path: str | Path) -> Curvature:
        tensors = load_file(str(path))
        counts = {name: tensors[f"counts.{name}"].tolist() for name in _FACTORS}
        return cls(
            counts=counts,
            **{name: [tensors[f"{name}.{layer}"] for layer in range(len(counts[name]))] for name in _FACTORS},
        )


_FACTORS = ("attention_inputs", "attention_gradients", "ffn_inputs", "ffn_gradients")


def estimate_curvature(
    encoder: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    problem: str,
    *,
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
    problem : {"classification", "regression", "question-answering"}
    seed : int
        Of the random signs that make one backward pass stand for all classes.
    shard, shards : int
        Only every so manieth of the batches; :meth:`Curvature.merge` puts the shards together.

    Returns
    -------
    Curvature
        On the CPU. Memory is that of one batch's activations plus the factors.
    """
    model, layers = encoder.model.eval(), encoder.layers
    batches = batches[:: max(1, sum(len(batch["input_ids"]) for batch in batches) // EXAMPLES)]
    numbered = list(enumerate(batches))[shard::shards]
    projections = {("attention", index): layer.attention_output for index, layer in enumerate(layers)}
    projections |= {("ffn", index): layer.ffn_output for index, layer in enumerate(layers)}
    inputs = {key: _square(linear.in_features, model.device) for key, linear in projections.items()}
    gradients = {key: _square(linear.out_features, model.device) for key, linear in projections.items()}
    generator = torch.Generator(device="cpu")
    tokens = dict.fromkeys(projections, 0)
    last = len(layers) - 1 if problem != "question-answering" else None  # where only [CLS] is read on
    pad = torch.empty(0)  # the attention mask of the batch at hand

    def listen(key):
        def hook(_, args, output):
            values = args[0].detach()[read_tokens(pad, first_token=key[1] == last)]
            _add_moments(inputs[key], values)
            tokens[key] += len(values)

            def collect(gradient):
                values = gradient[pad]
                _add_moments(gradients[key], values)

            output.register_hook(collect)

        return hook

    handles = [linear.register_forward_hook(listen(key)) for key, linear in projections.items()]
    # Only activations get gradients: the graph begins behind the embeddings.
    embeddings = getattr(model, model.base_model_prefix).embeddings
    handles.append(embeddings.register_forward_hook(lambda _, args, output: output.requires_grad_()))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    examples = 0
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        for number, batch in tqdm(numbered, desc="curvature", unit="batch", disable=not progress):
            generator.manual_seed(seed + number)  # a batch has the same signs in whichever shard it is
            pad = batch["attention_mask"].bool().to(model.device)
            examples += len(pad)
            outputs = model(**inputs_of(batch, model.device))
            gauss_newton_score(outputs, problem, TEMPERATURE, generator).backward()
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)
    inputs = {key: _symmetric(moments) / tokens[key] for key, moments in inputs.items()}
    gradients = {key: _symmetric(moments) / examples for key, moments in gradients.items()}
    counts = {name: [examples] * len(layers) for name in _FACTORS} | {
        f"{kind}_inputs": [tokens[kind, index] for index in range(len(layers))] for kind in ("attention", "ffn")
    }
    return Curvature(
        *(
            [factors[kind, index].cpu() for index in range(len(layers))]
            for kind in ("attention", "ffn")
            for factors in (inputs, gradients)
        ),
        counts,
    )


def _square(size: int, device: torch.device) -> Tensor:
    return torch.zeros(size, size, dtype=torch.float64, device=device)


def _add_moments(moments: Tensor, values: Tensor) -> None:
    """Add ``values^T values``, of which what is below the diagonal's blocks is left out."""
    for first in range(0, len(moments), BLOCK):
        rows = slice(first, first + BLOCK)
        moments[rows, first:] += values[:, rows].T @ values[:, first:]


def _symmetric(moments: Tensor) -> Tensor:
    return moments.triu() + moments.triu(1).T
