"""What cannot be pruned for what it is: values of a configuration, modules and weights that are not what they seem.

Every model passes through here, from a folder, the hub or memory: what is taken for a plain BERT and is not gives
a wrong model without a word otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import transformers
from torch import nn

from fastprune.errors import InputError
from fastprune.model.images import ImageReader

_MOST = {
    **dict.fromkeys(("num_hidden_layers", "n_layers"), 1000),
    **dict.fromkeys(("num_attention_heads", "n_heads"), 4096),
    **dict.fromkeys(("hidden_size", "dim", "embedding_size", "type_vocab_size"), 1 << 17),
    **dict.fromkeys(("intermediate_size", "hidden_dim"), 1 << 20),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 1 << 25),
}
"""Sizes by their names in config.json, and the most of each; the first keeps a typing error from filling memory."""

PARAMETERS = 1 << 34
"""Weights of a model, at most, where its files are not here to be compared."""

_HARMLESS = re.compile(
    r"(^|\.)(position_ids|token_type_ids)$"  # counters that older versions saved
    r"|^(cls|lm_head|generator_lm_head)\.|^vocab_(transform|layer_norm|projector)\."  # heads of the pretraining task
    r"|(^|\.)pooler\."
)
"""Weights that no computation of a task reads. Any other without a place in the model changed what it puts out."""


def check_values(config: Mapping, name: object = "the model") -> None:
    """Refuse a config.json whose sizes cannot be those of a model, before anything is built.

    Parameters
    ----------
    config : mapping
        As read from the file.

    Raises
    ------
    InputError
        Names the field and its value.
    """

    def refuse(field: str, remedy: str) -> None:
        raise InputError(f"{name}: config.json has {field} {str(config[field])[:80]!r}; {remedy}")

    for field, most in _MOST.items():
        least = 0 if field == "type_vocab_size" else 1
        if field in config and not (_is_integer(config[field]) and least <= config[field] <= most):
            refuse(field, f"it must be a whole number from {least} to {most}: take it from the model's training")
    for width, heads in (("hidden_size", "num_attention_heads"), ("dim", "n_heads")):
        if width in config and heads in config and config[width] % config[heads]:
            refuse(width, f"it must be a multiple of {heads}, which is {config[heads]}")
    pad = config.get("pad_token_id")
    if pad is not None and not (_is_integer(pad) and 0 <= pad < config.get("vocab_size", 1 << 25)):
        refuse("pad_token_id", "it must be the number of a token, from 0 to vocab_size - 1")
    labels = config.get("id2label")
    if labels is not None and not (
        isinstance(labels, Mapping) and labels and all(re.fullmatch(r"\d{1,9}", str(key)) for key in labels)
    ):
        refuse("id2label", 'it must name each output by its number, as {"0": "no", "1": "yes"}')
    count = config.get("num_labels")
    if count is not None and not (_is_integer(count) and 1 <= count <= 1 << 20):
        refuse("num_labels", "it must be a whole number from 1 on")
    named = config.get("architectures")
    if named is not None and not (isinstance(named, list) and all(isinstance(entry, str) for entry in named)):
        refuse("architectures", 'it must be a list of names, as ["BertForSequenceClassification"]')
    if config.get("quantization_config") is not None:
        refuse("quantization_config", "quantised weights cannot be pruned: prune the model first and quantise after")


def check_size(config: Mapping, folder: Path, name: object) -> None:
    """Refuse a config.json of a model larger than the weights beside it, before memory is taken for it.

    Parameters
    ----------
    config : mapping
        Passed :func:`check_values`.
    folder : Path
        Where the weights are; a model whose weights are not here in safetensors may have ``PARAMETERS``.

    Raises
    ------
    InputError
    """

    def size(*names: str) -> int:
        return next((config[one] for one in names if one in config), 1)

    width, layers = size("hidden_size", "dim"), size("num_hidden_layers", "n_layers")
    heads, filters = size("num_attention_heads", "n_heads"), size("intermediate_size", "hidden_dim")
    # At least: tables of tokens may be narrower than the layers, and what has no weights in some families is left out.
    kept = [config.get(field) for field in ("kept_heads", "kept_filters")]
    if any(counts is not None for counts in kept):
        for field, counts, most in zip(("kept_heads", "kept_filters"), kept, (heads, filters), strict=True):
            valid = isinstance(counts, list) and all(_is_integer(count) and 0 <= count <= most for count in counts)
            if not valid or len(counts) != layers:  # type: ignore[arg-type]
                raise InputError(
                    f"{name}: config.json has {field} {str(counts)[:80]}; it must be a list of {layers} whole numbers "
                    f"from 0 to {most}, one for each layer: copy the folder again"
                )
        in_layers = 2 * width * (width // heads) * sum(kept[0]) + 2 * width * sum(kept[1])  # type: ignore[arg-type]
    else:
        in_layers = layers * 2 * width * (width + filters)
    needed = size("vocab_size") * min(width, config.get("embedding_size") or width) + in_layers
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file())
    most = stored or PARAMETERS
    if needed > most:
        model = f"of a model of {needed:,} weights and more"
        raise InputError(
            f"{name}: its safetensors file is truncated or damaged, with {stored:,} bytes, or config.json is another "
            f"model's, {model}: copy it again, both together"
            if stored
            else f"{name}: config.json is {model}, and at most {most:,} are read; take that of the model"
        )


def check_positions(config: transformers.PreTrainedConfig) -> None:
    """Refuse positions and convolutions that the configuration names and fastprune has not."""
    positions = getattr(config, "position_embedding_type", None)
    if positions not in (None, "absolute"):
        raise InputError(
            f"the model has position_embedding_type {positions!r}, which transformers 5 computes no more; "
            "supported: absolute positions"
        )
    if getattr(config, "conv_kernel_size", 0):
        raise InputError(
            "the model has a convolution beside its first layer (conv_kernel_size), which fastprune does not walk "
            "through; supported: DeBERTa without it, such as deberta-v3-base"
        )


def check_tokenizer(tokenizer: transformers.PreTrainedTokenizerBase | ImageReader, name: object) -> None:
    """Raise InputError for a tokenizer that batches cannot be made with."""
    if isinstance(tokenizer, ImageReader):
        return
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"{name}: the tokenizer {type(tokenizer).__name__} has no padding token; set tokenizer.pad_token to the "
            "model's and save it again"
        )
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or longest < 3:
        raise InputError(
            f"{name}: model_max_length of the tokenizer is {longest!r}, and must be a number of tokens of at least 3; "
            "correct tokenizer_config.json"
        )


def check_class(model: object) -> None:
    """Refuse what is no plain transformers model: wrapped, compiled, with adapters, quantised.

    Raises
    ------
    InputError
        Names the class, or the first module that is at fault, and the remedy.
    """
    kind = type(model)
    if hasattr(model, "_orig_mod"):
        raise InputError("the model is compiled (torch.compile); pass the model that you compiled: model._orig_mod")
    if kind.__name__ in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
        raise InputError(f"the model is wrapped in {kind.__name__}; pass the model inside: model.module")
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if any(base.__module__.startswith("peft.") for base in type(module).__mro__):
                raise InputError(
                    f"the model has adapters that are not merged ({name or 'the model'} is a {type(module).__name__}); "
                    "merge first: PeftModel.merge_and_unload(), and pass what it returns"
                )
    if not isinstance(model, transformers.PreTrainedModel):
        raise InputError(
            f"a {kind.__module__}.{kind.__name__} is not a model that can be pruned; give a folder, a hub name or a "
            "transformers model (BertForSequenceClassification and its like)"
        )


def check_adapters(folder: Path, name: object) -> None:
    """Refuse a folder with adapters beside the weights, which pruning would lose."""
    for adapter in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"):
        if (folder / adapter).exists():
            raise InputError(
                f"{name}: there are adapters beside the model ({adapter}), and pruning would lose them; "
                "merge first: PeftModel.merge_and_unload(), and save what it returns"
            )


def check_linears(linears: Mapping[str, tuple[object, int, int]]) -> None:
    """Refuse a layer whose linear maps are not plain ones of the configuration's shapes, or are shared.

    Parameters
    ----------
    linears : dict of (module, in_features, out_features)
        Every linear map of the layers, by its place.
    """
    places: dict[int, str] = {}
    for place, (module, inputs, outputs) in linears.items():
        if type(module) is not nn.Linear:
            raise InputError(
                f"{place} is a {type(module).__module__}.{type(module).__name__} and no torch.nn.Linear; "
                "give the plain float32 model: merge adapters, and quantise after pruning"
            )
        own = module._parameters
        if own.get("weight") is None or (module.bias is not None and own.get("bias") is None):
            raise InputError(f"{place} has no weight or no bias of its own; make parametrisations permanent first")
        parameters = [parameter for parameter in (module.weight, module.bias) if parameter is not None]
        if [tuple(parameter.shape) for parameter in parameters] != [(outputs, inputs), (outputs,)][: len(parameters)]:
            raise InputError(
                f"{place} has the weight {list(module.weight.shape)} and the configuration gives "
                f"{[outputs, inputs]}: heads were pruned already, or the layer is of another kind"
            )
        for parameter in parameters:
            if id(parameter) in places:
                raise InputError(
                    f"{place} and {places[id(parameter)]} share their weights, so that cutting one cuts both; "
                    "give every layer weights of its own: copy.deepcopy the shared one"
                )
            places[id(parameter)] = place


def check_placed(unexpected: Iterable[str], name: object) -> None:
    """Refuse weights for which the model has no place, but those that no task computes with."""
    lost = sorted(key for key in unexpected if not _HARMLESS.search(key))
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise InputError(
            f"{name}: the model has no place for the weights {', '.join(lost[:3])}{more}, and without them it computes "
            "something else than what was trained; merge adapters first, or save the model as its plain class"
        )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
