"""Every supported architecture, tiny and random, with batches and masks that reach every corner."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DeiTConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedModel,
    RobertaConfig,
    ViTConfig,
    XLMRobertaConfig,
)
from transformers import models as hf

from fastprune.model.architectures import Encoder
from fastprune.model.images import image_shape, image_tokens
from fastprune.model.losses import IGNORED, inputs_of
from fastprune.model.masks import Masks
from fastprune.problem import problem_of
from fastprune.settings import POOLINGS

FAMILIES = {
    "bert": ("Bert", BertConfig, hf.bert),
    "roberta": ("Roberta", RobertaConfig, hf.roberta),
    "xlm-roberta": ("XLMRoberta", XLMRobertaConfig, hf.xlm_roberta),
    "camembert": ("Camembert", CamembertConfig, hf.camembert),
    "distilbert": ("DistilBert", DistilBertConfig, hf.distilbert),
    "electra": ("Electra", ElectraConfig, hf.electra),
    "mpnet": ("MPNet", MPNetConfig, hf.mpnet),
    "deberta-v2": ("DebertaV2", DebertaV2Config, hf.deberta_v2),
    "deberta-v2, keys shared": ("DebertaV2", DebertaV2Config, hf.deberta_v2),
    "modernbert": ("ModernBert", ModernBertConfig, hf.modernbert),
    "modernbert, biases": ("ModernBert", ModernBertConfig, hf.modernbert),
}
IMAGES = {"vit": ("ViT", ViTConfig, hf.vit), "deit": ("DeiT", DeiTConfig, hf.deit)}
PROBLEMS = ("classification", "regression", "question-answering")
CASES = [
    *((family, problem) for family in FAMILIES for problem in PROBLEMS),
    *((family, "image-classification") for family in IMAGES),
]
"""Every family with every problem that it has."""

TAGS = [(family, "token-classification") for family in FAMILIES]
VECTORS = [(family, "embedding") for family in FAMILIES]
EVERY = [*FAMILIES, *IMAGES]

VOCABULARY = 50
IMAGE = {"image_size": [4, 6], "patch_size": 2, "num_channels": 2}


def unsupported() -> PreTrainedModel:
    """A model of an architecture that is near to BERT, but not supported."""
    return AlbertForSequenceClassification(
        AlbertConfig(
            vocab_size=20,
            hidden_size=8,
            embedding_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
    )


def build(
    family: str = "bert",
    problem: str = "classification",
    *,
    num_layers: int = 3,
    num_filters: int = 24,
    seed: int = 0,
    **options,
) -> PreTrainedModel:
    """A random model of hidden size 16 with 4 heads; weights and biases large enough to matter."""
    prefix, config_class, module = (FAMILIES | IMAGES)[family]
    problem = "image-classification" if family in IMAGES else problem
    names = {
        "hidden_size": 16,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "intermediate_size": num_filters,
    }
    if family == "distilbert":
        names = {"dim": 16, "n_layers": num_layers, "n_heads": 4, "hidden_dim": num_filters}
    relative = {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "pooler_hidden_size": 16,
    }
    modern = {"local_attention": 4, "cls_token_id": 0, "sep_token_id": 2}  # a token attends to two on either side
    names |= {
        "electra": {"embedding_size": 12},
        "mpnet": {"relative_attention_num_buckets": 32},
        "deberta-v2": {**relative, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0},
        "deberta-v2, keys shared": {**relative, "share_att_key": True},
        "modernbert": modern,
        "modernbert, biases": modern
        | dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias"), True)
        | {"classifier_pooling": "mean"},
    }.get(family, {})
    num_labels = {"regression": 1, "question-answering": 2, "token-classification": 5}.get(problem, 3)
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    texts = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, **tokens}
    reads = IMAGE if family in IMAGES else texts
    config = config_class(num_labels=num_labels, **reads, **names, **options)
    if problem == "embedding":
        pooling = POOLINGS[list(FAMILIES).index(family) % len(POOLINGS)]
        how = {"pooling": pooling, "normalize": True, "similarity": "cosine", "prompts": {}, "prompt": ""}
        config.sentence_embedding = how | {"max_length": 0}
    head = problem_of(problem).heads[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(module, f"{prefix}{head}")(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                scale = 0.2 if "orm" not in name else 0.1
                parameter.add_(torch.randn_like(parameter), alpha=scale)
    return model


def random_batches(model: PreTrainedModel, problem: str, lengths: list[list[int]], seed: int = 0) -> list[dict]:
    """A batch a list of lengths, padded on the right with tokens that a leak would show; images are all of one."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for sizes in lengths:
        if tokens := image_tokens(model.config):
            pixels = torch.randn(len(sizes), *image_shape(model.config), generator=generator)
            batch = {"pixel_values": pixels, "attention_mask": torch.ones(len(sizes), tokens, dtype=torch.int64)}
        else:
            ids = torch.randint(3, VOCABULARY, (len(sizes), max(sizes)), generator=generator)
            mask = (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).long()
            ids[mask == 0] = model.config.pad_token_id
            batch = {"input_ids": ids, "attention_mask": mask}
        if problem == "question-answering":
            for name in ("start_positions", "end_positions"):
                batch[name] = torch.tensor([int(torch.randint(size, (), generator=generator)) for size in sizes])
        elif problem == "regression":
            batch["labels"] = torch.randn(len(sizes), generator=generator)
        elif problem == "token-classification":
            batch["labels"] = torch.randint(model.config.num_labels, mask.shape, generator=generator)
            batch["labels"][mask == 0] = IGNORED
        elif problem != "embedding":
            batch["labels"] = torch.randint(model.config.num_labels, (len(sizes),), generator=generator)
        batches.append(batch)
    return batches


def one_by_one(batches: list[dict], problem: str = "classification") -> list[dict]:
    """Every example in a batch of its own, without padding.

    Except for question answering: transformers' softmax over positions includes the padding, so that an
    example's loss is another without it.
    """
    singles = []
    for batch in batches:
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            length = None if problem in ("question-answering", "image-classification") else length
            singles.append(
                {
                    name: value[row : row + 1, :length] if value.ndim > 1 else value[row : row + 1]
                    for name, value in batch.items()
                }
            )
    return singles


def batch_for(model: PreTrainedModel) -> dict:
    """Three examples, of unlike lengths where they are texts."""
    return random_batches(model, "classification", [[9, 4, 1]])[0]


def random_masks(encoder: Encoder, seed: int = 0, *, scaled: bool = False) -> Masks:
    """About half of everything, at least one head and one filter in each layer."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for units in (encoder.num_heads, encoder.num_filters):
        mask = (torch.rand(encoder.num_layers, units, generator=generator) < 0.5).float()
        mask[:, 0] = 1
        rows.append(mask * (0.5 + torch.rand(mask.shape, generator=generator)) if scaled else mask)
    return Masks(*rows)


def extreme_masks(encoder: Encoder) -> Masks:
    """Scales over five layers: one head left; no heads; no filters; neither; uneven."""
    masks = random_masks(encoder, scaled=True)
    masks.heads[0] = torch.tensor([0, 0, 1.5, 0])
    masks.heads[1] = 0
    masks.filters[2] = 0
    masks.heads[3], masks.filters[3] = 0, 0
    masks.heads[4] = torch.tensor([0.7, 0, 1.1, -0.4])
    return masks


def logits_of(model: PreTrainedModel, batch: dict) -> Tensor:
    """All logits of a batch as one tensor, or the last states of a model without any; those at padding are left out."""
    with torch.no_grad():
        outputs = model(**inputs_of(batch, "cpu"))
    if "logits" in outputs:
        return outputs.logits
    if "last_hidden_state" in outputs:
        return outputs.last_hidden_state[batch["attention_mask"].bool()]
    return torch.stack([outputs.start_logits, outputs.end_logits])[:, batch["attention_mask"].bool()]
