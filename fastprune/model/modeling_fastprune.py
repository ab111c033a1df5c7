"""Encoders whose layers keep different numbers of heads and filters.

This file and ``families.py`` are copied into every folder that fastprune saves, so that the model loads with
transformers alone: ``AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)``. The
configuration is the source architecture's own, with two more fields: ``kept_heads`` and ``kept_filters``, a count per
layer; and for attention with a bias for each head ``kept_head_numbers``.
"""

import inspect
import json
import os
import shutil
import warnings

import transformers
from torch import nn

from .families import FAMILIES


class NoUnits(nn.Linear):
    """A map to no units at all: what it reads goes through, and nothing behind it reads more than its shape."""

    def forward(self, input):
        return input


class BiasAlone(nn.Linear):
    """The output projection of a block that keeps nothing: its bias or zeros, without a product over nothing.

    Quantisers and exporters, which cannot do with matrices of no rows or columns, leave it as it is.
    """

    def forward(self, input):
        bias = input.new_zeros(()) if self.bias is None else self.bias
        return bias.expand(*input.shape[:-1], self.out_features)


class NoMix(nn.Module):
    """What is between the stream and the units of a block that keeps none: what it reads goes through.

    Where the output projection belongs to it, that one's bias is all that it puts out.
    """

    def __init__(self, module, writes, is_attention):
        super().__init__()
        for name, child in module.named_children():
            self.add_module(name, child)
        self.writes, self.is_attention = writes, is_attention

    def forward(self, hidden_states=None, *args, query=None, **kwargs):
        states = query if hidden_states is None else hidden_states  # transformers 4's DistilBERT names it so
        if self.writes:
            states = self.get_submodule(self.writes)(states)
        return (states, None) if self.is_attention else states


class OwnBias:
    """Gives an attention the planes of its own heads of a bias that is made for all heads of the dense model."""

    def __init__(self, attention, argument, heads):
        self.argument, self.heads = argument, heads
        self.place = list(inspect.signature(attention.forward).parameters).index(argument)

    def __call__(self, attention, args, kwargs):
        if len(args) > self.place and args[self.place] is not None:
            bias = args[self.place][:, self.heads]  # [B, heads, T, T]
            args = (*args[: self.place], bias, *args[self.place + 1 :])
        elif kwargs.get(self.argument) is not None:
            kwargs = {**kwargs, self.argument: kwargs[self.argument][:, self.heads]}
        return args, kwargs


def _linear(like, in_features, out_features):
    kind = NoUnits if out_features == 0 else BiasAlone if in_features == 0 else nn.Linear
    options = {"device": like.weight.device, "dtype": like.weight.dtype, "bias": like.bias is not None}
    with warnings.catch_warnings():  # a layer that keeps nothing has nothing to initialise
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.utils.skip_init(kind, in_features, out_features, **options)


class SizedLayers:
    """Gives each layer of a freshly built model the sizes that its configuration names."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        family = FAMILIES[config.model_type].as_built(self.base_model)
        layers = self.base_model.get_submodule(family.layers)
        filters = getattr(config, family.filters)
        numbers = config.kept_head_numbers if family.head_bias else [()] * len(layers)
        sizes = zip(layers, config.kept_heads, config.kept_filters, numbers, strict=True)
        for layer, kept_heads, kept_filters, own in sizes:
            self._size(layer, family.attention, kept_heads, config.num_attention_heads)
            self._size(layer, family.ffn, kept_filters, filters)
            if kept_filters == 0:
                self._empty(layer, family.ffn.mix, family.ffn.writes, False)
            if kept_heads == 0:
                self._empty(layer, family.heads_of, family.attention.writes, True)
                continue
            attention = layer.get_submodule(family.heads_of)
            width = kept_heads * (config.hidden_size // config.num_attention_heads)
            for attribute, count in zip(family.head_counts, (kept_heads, width)):
                setattr(attention, attribute, count)  # older versions of transformers split the heads by these
            if family.head_bias:
                attention.register_forward_pre_hook(OwnBias(attention, family.head_bias, own), with_kwargs=True)

    @staticmethod
    def _size(layer, block, kept, units):
        """Give the maps of a block the rows and columns of ``kept`` of its ``units``."""
        for path in (*block.reads.values(), *block.follows):
            owner, name = _owner(layer, path)
            if hasattr(owner, name):
                old = getattr(owner, name)
                setattr(owner, name, _linear(old, old.in_features, old.out_features * kept // units))
        owner, name = _owner(layer, block.writes)
        old = getattr(owner, name)
        setattr(owner, name, _linear(old, old.in_features * kept // units, old.out_features))

    @staticmethod
    def _empty(layer, path, writes, is_attention):
        owner, name = _owner(layer, path)
        inside = writes[len(path) + 1 :] if writes.startswith(f"{path}.") else ""
        setattr(owner, name, NoMix(getattr(owner, name), inside, is_attention))

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As transformers has it, with this file and its table beside the weights, named in the configuration.

        So are the documents of sentence-transformers where the configuration has them in memory.
        """
        here = os.path.dirname(os.path.abspath(__file__))
        if kwargs.get("is_main_process", True) and here != os.path.abspath(save_directory):
            os.makedirs(save_directory, exist_ok=True)
            for name in (os.path.basename(__file__), "families.py"):
                shutil.copyfile(os.path.join(here, name), os.path.join(save_directory, name))
        name = next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)
        head = name.removeprefix(f"Pruned{FAMILIES[self.config.model_type].name}")
        module = os.path.splitext(os.path.basename(__file__))[0]
        self.config.auto_map = {f"AutoModel{head.removeprefix('Model')}": f"{module}.{name}"}
        documents = self.config.__dict__.pop("sentence_documents", {})
        try:
            saved = super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            if documents:
                self.config.sentence_documents = documents
        for path, document in documents.items() if kwargs.get("is_main_process", True) else ():
            file = os.path.join(save_directory, path)
            if os.path.relpath(file, save_directory).startswith(os.pardir):
                raise ValueError(f"sentence_documents names {path!r}, which lies outside the folder")
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "w", encoding="utf-8") as text:
                text.write(json.dumps(document, indent=2) + "\n")
        return saved


def _owner(layer, path):
    """The module that a path's last module belongs to, and its name there."""
    above, _, name = path.rpartition(".")
    return layer.get_submodule(above), name


def __getattr__(name):
    """``PrunedBertForSequenceClassification`` and its like, made when asked for: each needs its own imports."""
    for family in FAMILIES.values():
        for head in family.heads:
            if name == f"Pruned{family.name}{head}":
                dense = getattr(transformers, f"{family.name}{head}")
                globals()[name] = type(name, (SizedLayers, dense), {"__module__": __name__})
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
