"""Encoders whose layers keep different numbers of heads and filters.

This file is copied into every folder that fastprune saves, so that the model loads with transformers alone:
``AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)``. The configuration is the
source architecture's own, with two more fields: ``kept_heads`` and ``kept_filters``, a count per layer.
"""

import os
import shutil
import warnings

from torch import nn
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    CamembertForQuestionAnswering,
    CamembertForSequenceClassification,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
)


class NoUnits(nn.Linear):
    """A map to no units at all: what it reads goes through, and nothing behind it reads more than its shape."""

    def forward(self, input):
        return input


class BiasAlone(nn.Linear):
    """The output projection of a block that keeps nothing: its bias, without a product over nothing.

    Quantisers and exporters, which cannot do with matrices of no rows or columns, leave it as it is.
    """

    def forward(self, input):
        return self.bias.expand(*input.shape[:-1], self.out_features)


class NoHeads(nn.Module):
    """A self-attention all of whose heads are pruned: what is left is the output projection's bias."""

    def __init__(self, attention):
        super().__init__()
        for name, module in attention.named_children():
            self.add_module(name, module)

    def forward(self, hidden_states=None, *args, query=None, **kwargs):
        context = query if hidden_states is None else hidden_states  # transformers 4's DistilBERT names it so
        if hasattr(self, "out_lin"):  # DistilBERT projects inside its self-attention, the others outside
            context = self.out_lin(context)
        return context, None


def _linear(like, in_features, out_features):
    kind = NoUnits if out_features == 0 else BiasAlone if in_features == 0 else nn.Linear
    options = {"device": like.weight.device, "dtype": like.weight.dtype}
    with warnings.catch_warnings():  # a layer that keeps nothing has nothing to initialise
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.utils.skip_init(kind, in_features, out_features, **options)


class SizedLayers:
    """Gives each layer of a freshly built model the sizes that its configuration names."""

    def __init__(self, config):
        super().__init__(config)
        encoder = getattr(self, self.base_model_prefix)
        distilbert = config.model_type == "distilbert"
        layers = encoder.transformer.layer if distilbert else encoder.encoder.layer
        for layer, heads, filters in zip(layers, config.kept_heads, config.kept_filters, strict=True):
            self._size_attention(layer, heads)
            ffn_input, input_name, ffn_output, output_name, activation = (
                (layer.ffn, "lin1", layer.ffn, "lin2", "activation")
                if distilbert
                else (layer.intermediate, "dense", layer.output, "dense", "intermediate_act_fn")
            )
            old = getattr(ffn_input, input_name)
            setattr(ffn_input, input_name, _linear(old, config.hidden_size, filters))
            setattr(ffn_output, output_name, _linear(old, filters, config.hidden_size))
            if filters == 0:
                setattr(ffn_input, activation, nn.Identity())

    def _size_attention(self, layer, heads):
        config, distilbert = self.config, self.config.model_type == "distilbert"
        width = heads * (config.hidden_size // config.num_attention_heads)
        owner, name = (layer, "attention") if distilbert else (layer.attention, "self")
        attention = getattr(owner, name)
        for projection in ("q_lin", "k_lin", "v_lin") if distilbert else ("query", "key", "value"):
            setattr(attention, projection, _linear(getattr(attention, projection), config.hidden_size, width))
        output, output_name = (attention, "out_lin") if distilbert else (layer.attention.output, "dense")
        setattr(output, output_name, _linear(getattr(output, output_name), width, config.hidden_size))
        if heads == 0:
            setattr(owner, name, NoHeads(attention))
        elif distilbert:
            attention.n_heads, attention.dim = heads, width  # transformers 4 splits the heads by these
        else:
            attention.num_attention_heads, attention.all_head_size = heads, width

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As transformers has it, with this file beside the weights and named in the configuration."""
        if kwargs.get("is_main_process", True):
            os.makedirs(save_directory, exist_ok=True)
            source, target = os.path.abspath(__file__), os.path.join(save_directory, os.path.basename(__file__))
            if source != os.path.abspath(target):
                shutil.copyfile(source, target)
        task = "QuestionAnswering" if isinstance(self, _QUESTION_ANSWERING) else "SequenceClassification"
        name = next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)
        module = os.path.splitext(os.path.basename(__file__))[0]
        self.config.auto_map = {f"AutoModelFor{task}": f"{module}.{name}"}
        return super().save_pretrained(save_directory, *args, **kwargs)


class PrunedBertForSequenceClassification(SizedLayers, BertForSequenceClassification):
    pass


class PrunedBertForQuestionAnswering(SizedLayers, BertForQuestionAnswering):
    pass


class PrunedRobertaForSequenceClassification(SizedLayers, RobertaForSequenceClassification):
    pass


class PrunedRobertaForQuestionAnswering(SizedLayers, RobertaForQuestionAnswering):
    pass


class PrunedXLMRobertaForSequenceClassification(SizedLayers, XLMRobertaForSequenceClassification):
    pass


class PrunedXLMRobertaForQuestionAnswering(SizedLayers, XLMRobertaForQuestionAnswering):
    pass


class PrunedCamembertForSequenceClassification(SizedLayers, CamembertForSequenceClassification):
    pass


class PrunedCamembertForQuestionAnswering(SizedLayers, CamembertForQuestionAnswering):
    pass


class PrunedDistilBertForSequenceClassification(SizedLayers, DistilBertForSequenceClassification):
    pass


class PrunedDistilBertForQuestionAnswering(SizedLayers, DistilBertForQuestionAnswering):
    pass


_QUESTION_ANSWERING = (
    BertForQuestionAnswering,
    CamembertForQuestionAnswering,
    DistilBertForQuestionAnswering,
    RobertaForQuestionAnswering,
    XLMRobertaForQuestionAnswering,
)
