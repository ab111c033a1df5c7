"""Where the heads and filters of a model are, by the table of :mod:`fastprune.model.families`.

Everything else in the library sees an encoder only through :class:`Encoder`, :class:`Layer` and :class:`Block`; a new
architecture is one more entry of that table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers.activations import ACT2FN

from fastprune.errors import InputError
from fastprune.model.families import FAMILIES, BlockPaths
from fastprune.model.images import image_tokens
from fastprune.model.refusals import check_class, check_linears, check_positions
from fastprune.problem import fits, head_of, problem_names, problem_of
from fastprune.settings import POOLINGS

Kind = Literal["attention", "ffn"]


@dataclass(frozen=True)
class Block:
    """Half a layer: ``stream -> after(stream + writes(mix(before(stream))))``.

    Attributes
    ----------
    kind : {"attention", "ffn"}
        Whether its units are heads or filters.
    reads : dict of Linear
        The maps that read the normed stream, by name. A unit owns rows of each.
    parts : int
        Maps that each of them holds, one below the other. A unit owns rows of every part.
    follows : tuple of Linear
        More maps of which a unit owns rows; they do not read the stream.
    writes : Linear
        Reads the units ``[..., n]``, and writes into the stream. Masks act on its inputs.
    before, after : Module
        The norms before the maps and behind the sum; where there is none, the identity.
    mix : Module
        What is run with the normed stream up to the inputs of ``writes``. Attention's needs the options of its layer
        too.
    solved : tuple of str
        Names of the ``reads`` that read nothing but the stream, so that they can be solved for on it.
    """

    kind: Kind
    reads: Mapping[str, nn.Linear]
    parts: int
    follows: tuple[nn.Linear, ...]
    writes: nn.Linear
    before: nn.Module
    after: nn.Module
    mix: nn.Module
    solved: tuple[str, ...]

    @property
    def cut(self) -> tuple[nn.Linear, ...]:
        """The maps of which a unit owns rows."""
        return (*self.reads.values(), *self.follows)

    def rows(self, kept: Tensor) -> Tensor:
        """Rows of each of the ``reads`` that belong to the columns ``kept`` [k] of a dense block's ``writes``."""
        columns = self.writes.in_features
        return (kept + columns * torch.arange(self.parts, device=kept.device)[:, None]).flatten()  # [parts * k]


@dataclass(frozen=True)
class Layer:
    """One encoder layer: its module, and its two blocks in order."""

    module: nn.Module
    attention: Block
    ffn: Block

    @property
    def blocks(self) -> tuple[Block, Block]:
        return self.attention, self.ffn


@dataclass(frozen=True)
class Encoder:
    """The prunable part of a model, and its dense shape.

    ``windows`` says of each layer how many tokens a token attends to; None: to all. ``places`` says what the place of a
    layer demands: a layer can stand where one stood whose place demands the same, and nowhere else.
    """

    model: transformers.PreTrainedModel
    layers: tuple[Layer, ...]
    num_heads: int
    num_filters: int
    hidden_size: int
    windows: tuple[int | None, ...]
    places: tuple[str, ...]

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def device(self) -> torch.device:
        return self.model.device


_REFUSED = {
    "albert": "its layers share their weights, so that a unit cut in one is cut in all",
    **dict.fromkeys(("t5", "mt5", "bart", "mbart"), "it has a decoder, and fastprune prunes encoders"),
}


def check_supported(config) -> None:
    """Refuse an architecture that cannot be pruned, from its configuration alone.

    Raises
    ------
    InputError
        Names the model type or class and lists what is supported.
    """
    if getattr(config, "kept_heads", None) is not None:
        raise InputError(
            "the model was already pruned by fastprune; prune its source model instead "
            "(manifest.json in its folder names it)"
        )
    if config.model_type not in FAMILIES:
        why = _REFUSED.get(config.model_type)
        fault = f"cannot be pruned: {why}" if why else "is not supported"
        raise InputError(f"architecture {config.model_type!r} {fault}; supported: {', '.join(FAMILIES)}")
    named = (getattr(config, "architectures", None) or [""])[0]
    if named and head_of(named) not in FAMILIES[config.model_type].heads:
        raise InputError(
            f"a {named} cannot be pruned: it has no fine-tuned task head that fastprune supports; "
            f"supported: {', '.join(problem_names())}"
        )
    check_positions(config)
    _check_embeds(named, config)
    if not any(fits(name, config) for name in problem_names()):
        raise InputError(
            f"the model is configured for problem_type {config.problem_type!r} with {config.num_labels} outputs; "
            "supported: regression with one output, a single label with two or more, several labels with any number "
            "(multi_label_classification); correct problem_type in config.json"
        )
    if getattr(config, "is_decoder", False):
        raise InputError("the model is configured as a decoder (is_decoder=True); fastprune prunes encoders")


def _check_embeds(class_name: str, config) -> None:
    """Refuse an encoder without a task head that is not known to make embeddings."""
    if head_of(class_name) == "Model" and not any(fits(name, config, class_name) for name in problem_names()):
        raise InputError(
            f"a {class_name} cannot be pruned: it has no task head; if it makes embeddings, name its pooling (pooling "
            f"{', '.join(POOLINGS)}), or give a folder of sentence-transformers, with its modules.json"
        )


def describe(model: transformers.PreTrainedModel) -> Encoder:
    """Find the heads and filters of a dense model.

    Parameters
    ----------
    model : PreTrainedModel
        Of a family in :data:`fastprune.model.families.FAMILIES`, for sequence classification, regression or question
        answering.

    Returns
    -------
    Encoder

    Raises
    ------
    InputError
        The architecture is not supported, the model is pruned already, or a module in it is not what it is taken for.
    """
    check_class(model)
    check_supported(model.config)
    if head_of(type(model).__name__) is None:
        raise InputError(
            f"a {type(model).__name__} cannot be pruned; supported task heads: {', '.join(problem_names())}"
        )
    _check_embeds(type(model).__name__, model.config)
    encoder = Encoder(
        model,
        layers_of(model),
        model.config.num_attention_heads,
        intermediate_size(model.config),
        model.config.hidden_size,
        windows_of(model.config),
        places_of(model.config),
    )
    check_linears(
        {
            f"layer {index}'s {name}": (linear, inputs, outputs)
            for index, layer in enumerate(encoder.layers)
            for block in layer.blocks
            for name, linear, inputs, outputs in _shapes(block, encoder)
        }
    )
    return encoder


def _shapes(block: Block, encoder: Encoder) -> list[tuple[str, nn.Linear, int, int]]:
    """The maps of a dense block by name, with the shapes that the configuration gives them."""
    stream = encoder.hidden_size
    units = stream if block.kind == "attention" else encoder.num_filters
    more = {f"{block.kind}'s {place}. map of positions": linear for place, linear in enumerate(block.follows, 1)}
    return [
        *((name, linear, stream, block.parts * units) for name, linear in {**block.reads, **more}.items()),
        (f"{block.kind}_output", block.writes, units, stream),
    ]


def layers_of(model: transformers.PreTrainedModel) -> tuple[Layer, ...]:
    """The layers of a dense or of a sliced model."""
    family = FAMILIES[model.config.model_type].as_built(model.base_model)
    shared = ("query", "key") if getattr(model.config, family.positions_shared or "-", False) else ()
    return tuple(
        Layer(module, _block("attention", family.attention, module, shared), _block("ffn", family.ffn, module, ()))
        for module in attrgetter(family.layers)(model.base_model)
    )


def _block(kind: Kind, paths: BlockPaths, layer: nn.Module, shared: tuple[str, ...]) -> Block:
    def at(path: str) -> nn.Module:
        return layer.get_submodule(path)

    def linear(path: str) -> nn.Linear:
        return at(path)  # type: ignore[return-value]

    present = (path for path in paths.follows if hasattr(at(path.rpartition(".")[0]), path.rpartition(".")[2]))
    return Block(
        kind,
        {name: linear(path) for name, path in paths.reads.items()},
        paths.parts,
        tuple(linear(path) for path in present),
        linear(paths.writes),
        _norm(layer, paths.before),
        _norm(layer, paths.after),
        at(paths.mix),
        tuple(name for name in paths.reads if name not in shared),
    )


def task_head_of(model: transformers.PreTrainedModel) -> tuple[tuple[nn.Linear, ...], Callable[[Tensor], Tensor]]:
    """The linear maps from the last layer's hidden states to the logits, in order, and what stands between them."""
    family = FAMILIES[model.config.model_type]
    head = family.heads[str(head_of(type(model).__name__))]
    between = getattr(model.config, head.between.lower()) if head.between.isupper() else head.between
    function, norm = _FUNCTIONS.get(between) or ACT2FN[between], _norm(model, head.norm)
    return tuple(attrgetter(path)(model) for path in head.maps), lambda values: norm(function(values))


def norm_of(model: transformers.PreTrainedModel) -> nn.Module:
    """The norm behind the last layer, which the task head reads through; the identity where there is none."""
    return _norm(model.base_model, FAMILIES[model.config.model_type].norm)


def _norm(within: nn.Module, path: str) -> nn.Module:
    return within.get_submodule(path) if path else nn.Identity()


def reads_mean(model: transformers.PreTrainedModel) -> bool:
    """Whether the task head reads the mean of the last layer's states over the tokens."""
    pooling = FAMILIES[model.config.model_type].pooling
    classifies = head_of(type(model).__name__) == "ForSequenceClassification"
    return classifies and getattr(model.config, pooling or "-", "cls") == "mean"


def reads_first(model: transformers.PreTrainedModel, problem: str) -> bool:
    """Whether the task head reads the first token of the last layer alone."""
    return problem_of(problem).read_positions(model.config) == "first" and not reads_mean(model)


def kinds_of(config) -> list[str] | None:
    """What each layer attends to, where layers differ in that."""
    name = FAMILIES[config.model_type].layer_kinds
    return list(getattr(config, name)) if name else None


def windows_of(config) -> tuple[int | None, ...]:
    """Of each layer how many tokens a token attends to: half of the window on both sides, and itself."""
    kinds = kinds_of(config) or [""] * config.num_hidden_layers
    width = getattr(config, FAMILIES[config.model_type].window or "-", 0) // 2 * 2 + 1
    return tuple(width if kind == "sliding_attention" else None for kind in kinds)


def places_of(config) -> tuple[str, ...]:
    """Of each layer what its place demands: what it attends to, and whether it is a first layer unlike all others."""
    first, *others = kinds_of(config) or [""] * config.num_hidden_layers
    return (f"first {first}" if FAMILIES[config.model_type].first_apart else first, *others)


def sizes_of(config) -> tuple[list[int], list[int]]:
    """Heads and filters of each layer of a sliced model, whatever its layout."""
    if (heads := getattr(config, "kept_heads", None)) is not None:
        return heads, config.kept_filters
    layers = config.num_hidden_layers
    return [config.num_attention_heads] * layers, [intermediate_size(config)] * layers


def auto_class(config) -> Any:
    """The class of transformers that makes the model of a configuration, its task head told by ``architectures``."""
    usual = "ForImageClassification" if image_tokens(config) else "ForSequenceClassification"
    head = head_of((config.architectures or [""])[0]) or usual
    return getattr(transformers, f"AutoModel{head.removeprefix('Model')}")


def usual_attention(model_type: str | None) -> str:
    """The attention implementation that an architecture is run with."""
    return FAMILIES[model_type].attentions[0] if model_type in FAMILIES else "sdpa"


def intermediate_size(config) -> int:
    """Filters of a dense FFN."""
    return getattr(config, FAMILIES[config.model_type].filters)


_FUNCTIONS = {"": lambda states: states, "tanh": torch.tanh, "relu": torch.relu}
