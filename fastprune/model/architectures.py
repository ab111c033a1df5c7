"""Where the heads and filters of each supported architecture are.

Everything else in the library sees an encoder only through :class:`Encoder` and :class:`Layer`; a new
post-LayerNorm architecture is one more table of module paths here and one more class in
``modeling_fastprune.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import torch
import transformers
from torch import Tensor, nn

from fastprune.errors import InputError
from fastprune.model.refusals import check_class, check_linears, check_problem


@dataclass(frozen=True)
class Layer:
    """One encoder layer: ``a = LN(attention(h) + h)``, then ``LN(ffn(a) + a)``.

    ``attention_output`` reads the heads' concatenated contexts ``[..., H * head_size]``; ``ffn_output`` reads
    the filters' activations ``[..., I]``. Masks act on the inputs of these two projections.
    """

    module: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.Module
    ffn_input: nn.Linear
    activation: Callable[[Tensor], Tensor]
    ffn_output: nn.Linear
    ffn_norm: nn.Module


@dataclass(frozen=True)
class Encoder:
    """The prunable part of a model, and its dense shape."""

    model: transformers.PreTrainedModel
    layers: tuple[Layer, ...]
    num_heads: int
    num_filters: int
    hidden_size: int

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def device(self) -> torch.device:
        return self.model.device


_BERT = {
    "layers": "encoder.layer",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn_input": "intermediate.dense",
    "activation": "intermediate.intermediate_act_fn",
    "ffn_output": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
_DISTILBERT = {
    "layers": "transformer.layer",
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "ffn_input": "ffn.lin1",
    "activation": "ffn.activation",
    "ffn_output": "ffn.lin2",
    "ffn_norm": "output_layer_norm",
}
_PATHS = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "camembert": _BERT, "distilbert": _DISTILBERT}
_POOLED = (("bert.pooler.dense", "classifier"), torch.tanh)
_CLASSIFIER = (("classifier.dense", "classifier.out_proj"), torch.tanh)
_HEADS = {
    "bert": _POOLED,
    "roberta": _CLASSIFIER,
    "xlm-roberta": _CLASSIFIER,
    "camembert": _CLASSIFIER,
    "distilbert": (("pre_classifier", "classifier"), torch.relu),
}
_TASKS = ("ForSequenceClassification", "ForQuestionAnswering")


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
    if config.model_type not in _PATHS:
        raise InputError(f"architecture {config.model_type!r} is not supported; supported: {', '.join(_PATHS)}")
    named = (getattr(config, "architectures", None) or [""])[0]
    if named and not named.endswith(_TASKS):
        raise InputError(
            f"a {named} cannot be pruned: it has no fine-tuned task head that fastprune supports; "
            "supported: sequence classification, regression and question answering"
        )
    check_problem(config)
    if getattr(config, "is_decoder", False):
        raise InputError("the model is configured as a decoder (is_decoder=True); fastprune prunes encoders")


def describe(model: transformers.PreTrainedModel) -> Encoder:
    """Find the heads and filters of a dense model.

    Parameters
    ----------
    model : PreTrainedModel
        A BERT, RoBERTa, XLM-R, CamemBERT or DistilBERT for sequence classification, regression or question
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
    if not type(model).__name__.endswith(_TASKS):
        raise InputError(
            f"a {type(model).__name__} cannot be pruned; supported task heads: "
            "sequence classification, regression and question answering"
        )
    encoder = Encoder(
        model,
        layers_of(model),
        model.config.num_attention_heads,
        intermediate_size(model.config),
        model.config.hidden_size,
    )
    width, filters = encoder.hidden_size, encoder.num_filters
    sizes = {"ffn_input": (width, filters), "ffn_output": (filters, width)}
    roles = ("query", "key", "value", "attention_output", *sizes)
    check_linears(
        {
            f"layer {index}'s {role}": (getattr(layer, role), *sizes.get(role, (width, width)))
            for index, layer in enumerate(encoder.layers)
            for role in roles
        }
    )
    return encoder


def layers_of(model: transformers.PreTrainedModel) -> tuple[Layer, ...]:
    """The layers of a dense or of a sliced model."""
    paths = _PATHS[model.config.model_type]
    backbone = getattr(model, model.base_model_prefix)
    parts = {name: attrgetter(path) for name, path in paths.items() if name != "layers"}
    return tuple(
        Layer(module, **{name: part(module) for name, part in parts.items()})
        for module in attrgetter(paths["layers"])(backbone)
    )


def task_head_of(model: transformers.PreTrainedModel) -> tuple[tuple[nn.Linear, ...], Callable[[Tensor], Tensor]]:
    """The linear maps from the last layer's hidden states to the logits, in order, and what stands between them."""
    paths: tuple[str, ...]
    paths, between = _HEADS[model.config.model_type]
    if type(model).__name__.endswith("ForQuestionAnswering"):
        paths = ("qa_outputs",)
    return tuple(attrgetter(path)(model) for path in paths), between


def intermediate_size(config) -> int:
    """Filters of a dense FFN; DistilBERT calls them ``hidden_dim``."""
    return config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
