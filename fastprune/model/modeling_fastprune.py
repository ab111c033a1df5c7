"""Encoders whose layers keep different numbers of heads and filters.

This file is copied into every folder that fastprune saves, so that the model loads with transformers alone:
``AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)``. The configuration is the
source architecture's own, with two more fields: ``kept_heads`` and ``kept_filters``, a count per layer.
"""

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


class NoHeads(nn.Module):
    """A self-attention all of whose heads are pruned: what is left is the output projection's bias."""

    def __init__(self, attention):
        super().__init__()
        for name, module in attention.named_children():
            self.add_module(name, module)

    def forward(self, hidden_states, *args, **kwargs):
        context = hidden_states.new_zeros(*hidden_states.shape[:-1], 0)
        if hasattr(self, "out_lin"):  # DistilBERT projects inside its self-attention, the others outside
            context = self.out_lin(context)
        return context, None


def _linear(like, in_features, out_features):
    options = {"device": like.weight.device, "dtype": like.weight.dtype}
    with warnings.catch_warnings():  # a layer that keeps nothing has nothing to initialise
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.utils.skip_init(nn.Linear, in_features, out_features, **options)


class SizedLayers:
    """Gives each layer of a freshly built model the sizes that its configuration names."""

    def __init__(self, config):
        super().__init__(config)
        encoder = getattr(self, self.base_model_prefix)
        distilbert = config.model_type == "distilbert"
        layers = encoder.transformer.layer if distilbert else encoder.encoder.layer
        head_size = config.hidden_size // config.num_attention_heads
        for layer, heads, filters in zip(layers, config.kept_heads, config.kept_filters, strict=True):
            owner, name = (layer, "attention") if distilbert else (layer.attention, "self")
            attention = getattr(owner, name)
            projections = ("q_lin", "k_lin", "v_lin") if distilbert else ("query", "key", "value")
            for projection in projections:
                old = getattr(attention, projection)
                setattr(attention, projection, _linear(old, config.hidden_size, heads * head_size))
            output, output_name = (attention, "out_lin") if distilbert else (layer.attention.output, "dense")
            old = getattr(output, output_name)
            setattr(output, output_name, _linear(old, heads * head_size, config.hidden_size))
            if heads == 0:
                setattr(owner, name, NoHeads(attention))
            if distilbert:
                layer.ffn.lin1 = _linear(layer.ffn.lin1, config.hidden_size, filters)
                layer.ffn.lin2 = _linear(layer.ffn.lin2, filters, config.hidden_size)
            else:
                layer.intermediate.dense = _linear(layer.intermediate.dense, config.hidden_size, filters)
                layer.output.dense = _linear(layer.output.dense, filters, config.hidden_size)


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
