"""What sentence-transformers keeps beside a model: its modules, pooling, prompts and lengths.

The documents are read and checked with the model's configuration, travel on it through pruning, and are written beside
whatever is saved: a folder of sentence-transformers goes in, and one comes out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import transformers
from transformers.utils import cached_file

from fastprune.errors import InputError
from fastprune.model.families import FAMILIES
from fastprune.settings import POOLINGS
from fastprune.store.bounded import read_json
from fastprune.store.paths import inside

DOCUMENTS = "sentence_documents"
"""On a configuration in memory: the JSON documents by their paths; never in config.json."""

EMBEDDING = "sentence_embedding"
"""On a configuration, and in config.json: how a text's vector is made of the last layer's states.

``pooling`` (one of :data:`fastprune.settings.POOLINGS`), ``normalize``, ``similarity`` ("cosine" or "dot"), ``prompts``
by name, ``prompt`` (what stands before a text where nothing is said) and ``max_length`` in tokens, 0 for the model's.
"""

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
_LENGTHS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")
)
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def attach(config: transformers.PretrainedConfig, where: str | Path, pooling: str | None = None) -> None:
    """Note on a configuration what sentence-transformers has beside the model.

    Parameters
    ----------
    config : PretrainedConfig
    where : str or Path
        A local folder, or a name on the hub.
    pooling : str, optional
        Makes an embedding model of a folder that has no ``modules.json``.

    Raises
    ------
    InputError
        A document is damaged; a module, a pooling or an option is one that fastprune does not compute; or ``pooling``
        is not the folder's own.
    """
    config.__dict__.pop(DOCUMENTS, None)  # config.json is not where they are read from
    _note(config, _read(where), where, pooling)


def name_pooling(config: transformers.PretrainedConfig, pooling: str | None) -> None:
    """Make an embedding model of a model in memory, where a pooling is named. Raises InputError as :func:`attach`."""
    if pooling:
        _note(config, dict(getattr(config, DOCUMENTS, {})), "the model", pooling)


def _note(
    config: transformers.PretrainedConfig, documents: dict[str, Any], where: str | Path, pooling: str | None
) -> None:
    if pooling and MODULES not in documents:
        documents |= _made(pooling, config)
    if documents:
        setattr(config, DOCUMENTS, documents)
    if MODULES not in documents or documents.get(SETTINGS, {}).get("model_type") == "CrossEncoder":
        return
    embedding = _embedding(documents, config, where)
    if pooling and embedding["pooling"] != pooling:
        raise InputError(
            f"{where}: its pooling is {embedding['pooling']!r} ({MODULES}), and {pooling!r} is asked for; leave "
            "pooling out"
        )
    setattr(config, EMBEDDING, embedding)
    if config.model_type in FAMILIES and getattr(config, "kept_heads", None) is None:
        config.architectures = [f"{FAMILIES[config.model_type].name}Model"]  # whatever head it was pretrained with


def embedding_of(config: transformers.PretrainedConfig) -> Mapping[str, Any]:
    """How a text's vector is made, see :data:`EMBEDDING`; empty of a model that makes none."""
    return getattr(config, EMBEDDING, {})


@torch.no_grad()
def without_pooler(model: transformers.PreTrainedModel, missing: Iterable[str]) -> list[str]:
    """The missing weights, of a model of embeddings without its pooler's: no vector is made by them.

    They become zeros, where transformers leaves them to chance.
    """
    if not embedding_of(model.config):
        return list(missing)
    for name in missing:
        if name.startswith("pooler."):
            model.get_parameter(name).zero_()
    return [name for name in missing if not name.startswith("pooler.")]


def write(folder: Path, config: transformers.PretrainedConfig) -> None:
    """Write a configuration's documents below the folder of its model. Raises InputError for a path out of it."""
    for path, document in getattr(config, DOCUMENTS, {}).items():
        file = inside(folder, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _read(where: str | Path) -> dict[str, Any]:
    """The documents by their paths; none beside most models."""
    found = {name: document for name in (SETTINGS, *_LENGTHS, MODULES) if (document := _document(where, name))}
    for path in _paths(found.get(MODULES, []), where):
        if path and (document := _document(where, f"{path}/config.json")):
            found[f"{path}/config.json"] = document
    return found


def _document(where: str | Path, name: str) -> Any:
    folder = Path(where)
    file: str | Path | None = folder / name if (folder / name).exists() else None
    if not folder.is_dir():
        file = cached_file(where, name, _raise_exceptions_for_missing_entries=False)
    if file is None:
        return None
    document, wanted = read_json(file), list if name == MODULES else dict
    if not isinstance(document, wanted):
        raise InputError(f"{file}: is no JSON {'list' if wanted is list else 'object'}; save the model again")
    return document


def _paths(modules: list, where: str | Path) -> Iterator[str]:
    """Of each module its folder, once it has proved to lie within the model's."""
    for module in modules:
        path = module.get("path") if isinstance(module, dict) else None
        if not isinstance(path, str) or not isinstance(module.get("type"), str):
            raise InputError(f"{where}: {MODULES} has an entry without path and type; save the model again")
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InputError(f"{where}: {MODULES} names {path!r}, which lies outside the folder; correct it")
        yield path


def _kinds(modules: list, where: str | Path) -> list[str]:
    """The classes of the modules, in order; only those of sentence-transformers itself are known."""
    kinds = []
    for module in modules:
        package, _, kind = module["type"].rpartition(".")
        if package.split(".")[0] != "sentence_transformers":
            raise InputError(f"{where}: the module {module['type']} has code of its own, which fastprune does not run")
        kinds.append(kind)
    return kinds


def _embedding(documents: Mapping[str, Any], config: transformers.PretrainedConfig, where: str | Path) -> dict:
    """What :data:`EMBEDDING` says, from documents that have all been checked for what fastprune computes."""
    modules = documents[MODULES]
    kinds = _kinds(modules, where)
    if "Dense" in kinds:
        raise InputError(
            f"{where}: a Dense module stands behind the pooling, which fastprune does not walk through; remove it from "
            f"{MODULES} for pruning, and put it back into the folder that is made"
        )
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{where}: {MODULES} has {', '.join(kinds) or 'nothing'}; supported: Transformer, Pooling, and perhaps "
            "Normalize"
        )
    paths = [module["path"] for module in modules]
    if paths[0]:
        raise InputError(
            f"{where}: the model lies in {paths[0]!r} and not beside {MODULES}; load the folder with a newer "
            "sentence-transformers and save it again"
        )
    settings = documents.get(SETTINGS, {})
    pooling = documents.get(f"{paths[1]}/config.json", {})
    prompts = _prompts(settings, where)
    if not pooling.get("include_prompt", True) and any(prompts.values()):
        raise InputError(f"{where}: the pooling leaves the prompt out (include_prompt), which fastprune does not")
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        raise InputError(f"{where}: similarity_fn_name is {similarity!r}; supported: cosine and dot")
    name = settings.get("default_prompt_name")
    if name is not None and name not in prompts:
        raise InputError(f"{where}: default_prompt_name is {name!r}, and {SETTINGS} has no such prompt; correct it")
    return {
        "pooling": _mode(pooling, config, where),
        "normalize": kinds[-1] == "Normalize",
        "similarity": similarity,
        "prompts": prompts,
        "prompt": prompts.get(name, ""),
        "max_length": _length(documents, where),
    }


def _mode(pooling: Mapping, config: transformers.PretrainedConfig, where: str | Path) -> str:
    modes = pooling.get("pooling_mode") or [mode for name, mode in _OLD_MODES.items() if pooling.get(name)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise InputError(
            f"{where}: the pooling is {' and '.join(map(str, modes))}; supported: one of {', '.join(POOLINGS)}"
        )
    size = pooling.get("embedding_dimension", pooling.get("word_embedding_dimension", config.hidden_size))
    if size != config.hidden_size:
        raise InputError(
            f"{where}: the pooling is of {size!r} numbers a token, and the model puts out {config.hidden_size}; "
            "save both again from one model"
        )
    return modes[0]


def _prompts(settings: Mapping, where: str | Path) -> dict[str, str]:
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise InputError(f"{where}: prompts in {SETTINGS} is not an object of texts by name; correct it")
    return {name: text or "" for name, text in prompts.items()}


def _length(documents: Mapping[str, Any], where: str | Path) -> int:
    """Tokens at which texts are cut, 0 where nothing is said; refuses what else could be said with it."""
    lengths: Mapping = next((documents[name] for name in _LENGTHS if name in documents), {})
    task = lengths.get("transformer_task", "feature-extraction")
    text = (lengths.get("modality_config") or {}).get("text", {})
    output = text.get("method_output_name", "last_hidden_state") if isinstance(text, dict) else text
    if task != "feature-extraction" or output != "last_hidden_state":
        raise InputError(f"{where}: the Transformer puts out {output!r} for {task!r}; supported: last_hidden_state")
    length = lengths.get("max_seq_length") or 0
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise InputError(f"{where}: max_seq_length is {length!r}; it must be a number of tokens")
    return length


def lowercases(documents: Mapping[str, Any]) -> bool:
    """Whether sentence-transformers makes texts lower case, whatever the tokenizer does."""
    return any(documents.get(name, {}).get("do_lower_case", False) for name in _LENGTHS)


def _made(pooling: str, config: transformers.PretrainedConfig) -> dict[str, Any]:
    """The documents of a plain model that a pooling is named for; the vectors are made one long."""
    if pooling not in POOLINGS:
        raise InputError(f"pooling {pooling!r} is not known; use one of {', '.join(POOLINGS)}")
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": place, "name": str(place), "path": f"{place}_{kind}" if place else "", "type": f"{_PACKAGE}.{kind}"}
        for place, kind in enumerate(kinds)
    ]
    modes = {name: mode == pooling for name, mode in _OLD_MODES.items() if mode in POOLINGS}
    return {MODULES: modules, "1_Pooling/config.json": {"word_embedding_dimension": config.hidden_size, **modes}}


_PACKAGE = "sentence_transformers.models"
"""As every version of it reads; a newer one writes longer names."""
