"""Where the layers and linear maps of each supported architecture are: data alone, one entry a family.

A layer is two blocks, attention and FFN. A block reads the residual stream by linear maps, mixes what they put out into
its units (heads, or filters), and writes the units back by one more:

    stream -> after(stream + writes(mix(before(stream))))

A norm stands behind the sum (BERT) or before the maps (ModernBERT); the other of the two is then the identity.

Masks, MACs, importance, the walk, surgery, look-up tables and the saved modelling file all work from this table. A copy
of the file is saved with every pruned model: it needs nothing but Python.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BlockPaths:
    """One block of a layer, by the paths of its modules within the layer.

    Attributes
    ----------
    reads : dict
        The linear maps that read the stream, by name. A unit owns rows of each.
    writes : str
        The linear map back into the stream. A unit owns columns of it.
    before, after : str
        The norms before the maps and behind the sum; without a path there is none.
    mix : str
        What is run to get from the normed stream to the units; without a path the layer itself, with its attention
        mask.
    parts : int
        How many maps each of the ``reads`` holds, one below the other: three of a fused query, key and value, two of
        a gated FFN. A unit owns rows of every part.
    follows : tuple of str
        More linear maps of which a unit owns rows, and which do not read the stream (projections of positions).
    """

    reads: dict
    writes: str
    after: str = ""
    before: str = ""
    mix: str = ""
    parts: int = 1
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
    norm : str
        Path within the model of a norm behind that.
    """

    maps: tuple
    between: str = ""
    norm: str = ""


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
    heads : dict of Head
        By how the names of its classes in transformers end.
    norm : str
        Path within the base model of the norm behind the last layer; without one the last block ends the encoder.
    filters : str
        The configuration's name for the number of filters.
    head_bias : str
        Attention's argument with a plane for each head of the dense model [B, H, T, T]: kept heads need their own.
    positions_shared : str
        A switch of the configuration: with it query and key project the positions too, not the stream alone.
    pooling : str
        The configuration's name for what a text classifier reads: "cls", the first token, or "mean", that of all.
    layer_kinds : str
        The configuration's name for a list of what each layer attends to. Then its layers get different arguments.
    window : str
        The configuration's name for how many tokens a layer of the kind ``sliding_attention`` attends to.
    attentions : tuple of str
        Its attention implementations, the usual one first.
    first_apart : bool
        The first layer is built otherwise than all others, so that none of them can take its place.
    image_tokens : int
        Of a model of images, the tokens beside those of the patches; 0 of a model of texts.
    older : Family, optional
        The same where an older version of transformers builds it: told by the path of the layers.
    """

    name: str
    layers: str
    attention: BlockPaths
    ffn: BlockPaths
    heads_of: str
    head_counts: tuple
    heads: dict
    norm: str = ""
    filters: str = "intermediate_size"
    head_bias: str = ""
    positions_shared: str = ""
    pooling: str = ""
    layer_kinds: str = ""
    window: str = ""
    attentions: tuple = ("sdpa", "eager")
    first_apart: bool = False
    image_tokens: int = 0
    older: "Family | None" = None

    def as_built(self, base):
        """This entry, or the older one, whichever has the paths of a base model (a module of torch)."""
        here = base
        for name in self.layers.split("."):
            here = getattr(here, name, None)
        return self if here is not None or self.older is None else self.older


_NAMES = ("query", "key", "value")
_FFN = BlockPaths({"ffn_input": "intermediate.dense"}, "output.dense", "output.LayerNorm", mix="intermediate")
_ATTENTION = BlockPaths(
    {name: f"attention.self.{name}" for name in _NAMES}, "attention.output.dense", "attention.output.LayerNorm"
)
_COUNTS = ("num_attention_heads", "all_head_size")
_MODERN = Head(("head.dense", "classifier"), "CLASSIFIER_ACTIVATION", norm="head.norm")
_DENSE = ("classifier.dense", "classifier.out_proj")


def _heads(classifier, answers=Head(("qa_outputs",)), tags=Head(("classifier",))):
    own = {"ForSequenceClassification": classifier, "ForTokenClassification": tags, "ForQuestionAnswering": answers}
    return {**own, "Model": Head(())}


def _bert(name, classifier):
    return Family(name, "encoder.layer", _ATTENTION, _FFN, "attention.self", _COUNTS, _heads(classifier))


def _vit(name, image_tokens):
    older = Family(
        name,
        "encoder.layer",
        BlockPaths(
            {name: f"attention.attention.{name}" for name in _NAMES},
            "attention.output.dense",
            before="layernorm_before",
            mix="attention",
        ),
        BlockPaths({"ffn_input": "intermediate.dense"}, "output.dense", before="layernorm_after", mix="intermediate"),
        "attention.attention",
        _COUNTS,
        {"ForImageClassification": Head(("classifier",))},
        norm="layernorm",
        image_tokens=image_tokens,
    )
    reads = {name: f"attention.{name[0]}_proj" for name in _NAMES}
    attention = replace(older.attention, reads=reads, writes="attention.o_proj")
    ffn = replace(older.ffn, reads={"ffn_input": "mlp.fc1"}, writes="mlp.fc2", mix="mlp")
    return replace(older, layers="layers", attention=attention, ffn=ffn, heads_of="attention", older=older)


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
        _heads(Head(("pre_classifier", "classifier"), "relu")),
        filters="hidden_dim",
    ),
    "mpnet": Family(
        "MPNet",
        "encoder.layer",
        BlockPaths({name: f"attention.attn.{name[0]}" for name in _NAMES}, "attention.attn.o", "attention.LayerNorm"),
        _FFN,
        "attention.attn",
        _COUNTS,
        _heads(Head(_DENSE, "tanh")),
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
        _heads(Head(("pooler.dense", "classifier"), "POOLER_HIDDEN_ACT")),
        positions_shared="share_att_key",
        attentions=("eager",),
    ),
    "modernbert": Family(
        "ModernBert",
        "layers",
        BlockPaths({"query_key_value": "attn.Wqkv"}, "attn.Wo", before="attn_norm", mix="attn", parts=3),
        BlockPaths({"ffn_input": "mlp.Wi"}, "mlp.Wo", before="mlp_norm", mix="mlp", parts=2),
        "attn",
        ("num_heads", "all_head_size"),
        _heads(_MODERN, _MODERN, _MODERN),
        norm="final_norm",
        pooling="classifier_pooling",
        layer_kinds="layer_types",
        window="local_attention",
        first_apart=True,
    ),
    "vit": _vit("ViT", 1),
    "deit": _vit("DeiT", 2),
}
"""By transformers' ``model_type``."""
