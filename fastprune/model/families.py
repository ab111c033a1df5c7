"""Where the layers and linear maps of each supported architecture are: data alone, one entry a family.

A layer is two blocks, attention and FFN. A block reads the residual stream by linear maps, mixes what they put out into
its units (heads, or filters), and writes the units back by one more:

    stream -> after(stream + writes(mix(stream)))

Masks, MACs, importance, the walk, surgery, look-up tables and the saved modelling file all work from this table. A copy
of the file is saved with every pruned model: it needs nothing but Python.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockPaths:
    """One block of a layer, by the paths of its modules within the layer.

    Attributes
    ----------
    reads : dict
        The linear maps that read the stream, by name. A unit owns rows of each.
    writes : str
        The linear map back into the stream. A unit owns columns of it.
    after : str
        The norm behind the sum.
    mix : str
        What is run to get from the stream to the units; without a path the layer itself, with its attention mask.
    follows : tuple of str
        More linear maps of which a unit owns rows, and which do not read the stream (projections of positions).
    """

    reads: dict
    writes: str
    after: str
    mix: str = ""
    follows: tuple = ()


@dataclass(frozen=True)
class Head:
    """The linear maps from the last layer's states to the outputs.

    Attributes
    ----------
    maps : tuple of str
        Their paths within the model, in order.
    between : str
        What stands between two, by transformers' name of the function; a name in capitals is the configuration's.
    """

    maps: tuple
    between: str = ""


@dataclass(frozen=True)
class Family:
    """An architecture.

    Attributes
    ----------
    name : str
        As the classes of transformers begin: ``Bert`` of ``BertForSequenceClassification``.
    layers : str
        Path of the layers within the base model.
    attention, ffn : BlockPaths
    heads_of : str
        Path within the layer of the module that splits its projections into heads.
    head_counts : tuple of str
        Attributes of that module: the number of heads, and their size together.
    classifier : Head
        From the first token's state to the logits of a text.
    filters : str
        The configuration's name for the number of filters.
    head_bias : str
        Attention's argument with a plane for each head of the dense model [B, H, T, T]: kept heads need their own.
    positions_shared : str
        A switch of the configuration: with it query and key project the positions too, not the stream alone.
    attentions : tuple of str
        Its attention implementations, the usual one first.
    """

    name: str
    layers: str
    attention: BlockPaths
    ffn: BlockPaths
    heads_of: str
    head_counts: tuple
    classifier: Head
    filters: str = "intermediate_size"
    head_bias: str = ""
    positions_shared: str = ""
    attentions: tuple = ("sdpa", "eager")

    @property
    def heads(self):
        """By the ends of the names of its classes in transformers."""
        return {"ForSequenceClassification": self.classifier, "ForQuestionAnswering": Head(("qa_outputs",))}


_NAMES = ("query", "key", "value")
_FFN = BlockPaths({"ffn_input": "intermediate.dense"}, "output.dense", "output.LayerNorm", mix="intermediate")
_ATTENTION = BlockPaths(
    {name: f"attention.self.{name}" for name in _NAMES}, "attention.output.dense", "attention.output.LayerNorm"
)
_COUNTS = ("num_attention_heads", "all_head_size")
_DENSE = ("classifier.dense", "classifier.out_proj")


def _bert(name, classifier):
    return Family(name, "encoder.layer", _ATTENTION, _FFN, "attention.self", _COUNTS, classifier)


FAMILIES = {
    "bert": _bert("Bert", Head(("bert.pooler.dense", "classifier"), "tanh")),
    "roberta": _bert("Roberta", Head(_DENSE, "tanh")),
    "xlm-roberta": _bert("XLMRoberta", Head(_DENSE, "tanh")),
    "camembert": _bert("Camembert", Head(_DENSE, "tanh")),
    "electra": _bert("Electra", Head(_DENSE, "gelu")),
    "distilbert": Family(
        "DistilBert",
        "transformer.layer",
        BlockPaths({name: f"attention.{name[0]}_lin" for name in _NAMES}, "attention.out_lin", "sa_layer_norm"),
        BlockPaths({"ffn_input": "ffn.lin1"}, "ffn.lin2", "output_layer_norm", mix="ffn"),
        "attention",
        ("n_heads", "dim"),
        Head(("pre_classifier", "classifier"), "relu"),
        filters="hidden_dim",
    ),
    "mpnet": Family(
        "MPNet",
        "encoder.layer",
        BlockPaths({name: f"attention.attn.{name[0]}" for name in _NAMES}, "attention.attn.o", "attention.LayerNorm"),
        _FFN,
        "attention.attn",
        _COUNTS,
        Head(_DENSE, "tanh"),
        head_bias="position_bias",
        attentions=("eager",),
    ),
    "deberta-v2": Family(
        "DebertaV2",
        "encoder.layer",
        BlockPaths(
            {name: f"attention.self.{name}_proj" for name in _NAMES},
            "attention.output.dense",
            "attention.output.LayerNorm",
            follows=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
        ),
        _FFN,
        "attention.self",
        _COUNTS,
        Head(("pooler.dense", "classifier"), "POOLER_HIDDEN_ACT"),
        positions_shared="share_att_key",
        attentions=("eager",),
    ),
}
"""By transformers' ``model_type``."""
