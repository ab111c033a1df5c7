"""Reading dense models, and saving and loading pruned ones: safetensors and JSON only, never pickle."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from fastprune.errors import InputError
from fastprune.model import sentence
from fastprune.model.architectures import auto_class, check_supported, describe, usual_attention
from fastprune.model.families import FAMILIES
from fastprune.model.images import load_image_reader
from fastprune.model.precision import NAME, note_precision, precision_of, save_weights, stored_precision
from fastprune.model.reading import reading
from fastprune.model.refusals import (
    check_adapters,
    check_class,
    check_placed,
    check_size,
    check_tokenizer,
    check_values,
)
from fastprune.model.tokenizer_files import FILE_BYTES, PIPELINES, check_tokenizer_files, edit_document, save_tokenizer
from fastprune.store.bounded import check_regular, read_json
from fastprune.store.copies import local
from fastprune.store.output import new_folder

MANIFEST = "manifest.json"
WEIGHTS_DIGEST = "weights_sha256"

CODE = ("modeling_fastprune.py", "families.py")
"""The files of code in a saved folder; transformers runs the first, which reads the second."""

TOKENIZER_FILES = ("tokenizer*", "*vocab*", "*.model")
"""A folder with no file of such a name has no tokenizer."""

SWITCHES = {
    "chunk_size_feed_forward": 0,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "torchscript": False,
}
"""What the configuration may say on how to run, not on what to compute, and what pruning runs with.

A pruned model is saved with the source's feed-forward chunks alone: attentions or tuples fail those that read it.
"""

KEPT_SWITCHES = ("chunk_size_feed_forward",)


def load_dense(
    name: str | Path, *, device: str | torch.device = "cpu", allow_untuned: bool = False, pooling: str | None = None
) -> transformers.PreTrainedModel:
    """Load a fine-tuned model in float32, whatever precision it is stored in.

    Parameters
    ----------
    name : str or Path
        A local folder, an ``s3://`` prefix or a hub name.
    allow_untuned : bool
        Go on although the checkpoint has no weights for its task head.
    pooling : str, optional
        Makes an embedding model of an encoder without a task head.

    Raises
    ------
    InputError
        No such model, no safetensors file or a damaged one, an unsupported architecture, a task head without
        weights, or a weight that is not finite.
    """
    config = load_config(name, pooling)
    with reading(name):
        model, loading = auto_class(config).from_pretrained(
            local(name),
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    check_placed(loading["unexpected_keys"], name)
    if (missing := sentence.without_pooler(model, loading["missing_keys"])) and not allow_untuned:
        raise InputError(
            f"{name}: the checkpoint has no weights for {', '.join(sorted(missing))}: "
            "it was not fine-tuned for this task; fine-tune it first (or pass --allow-untuned)"
        )
    check_finite(model)
    describe(model)
    if (folder := Path(local(name))).is_dir():
        note_precision(model, stored_precision(folder))
    return model.to(device).eval()


def adopt(
    model: transformers.PreTrainedModel, device: str | torch.device = "cpu", pooling: str | None = None
) -> transformers.PreTrainedModel:
    """A twin of a model in memory to prune: modules and configuration of its own, on shared weights.

    Its device, mode, hooks and switches are its own: whatever is done to them leaves the model as it was.

    Raises
    ------
    InputError
        It is no plain float32 model that can be pruned, or a weight is not finite.
    """
    check_class(model)
    if model.dtype != torch.float32:
        raise InputError(f"the model is in {model.dtype}; load it with dtype=torch.float32 to prune it")
    shared = {id(weight): torch.nn.Parameter(weight.detach()) for weight in model.parameters()}
    twin = copy.deepcopy(model, shared)
    sentence.name_pooling(twin.config, pooling)
    describe(twin)
    check_finite(twin)
    for switch, neutral in SWITCHES.items():
        if getattr(twin.config, switch, neutral) != neutral:
            setattr(twin.config, switch, neutral)
    for module in twin.modules():
        if getattr(module, "chunk_size_feed_forward", 0):
            module.chunk_size_feed_forward = 0  # type: ignore[assignment]
    _remember(twin, {switch: getattr(model.config, switch, neutral) for switch, neutral in SWITCHES.items()})
    return twin.to(device).eval()  # type: ignore[arg-type]


def _remember(model: transformers.PreTrainedModel, switches: dict) -> None:
    """Note on the configuration's copy, which slicing takes over, what :func:`save` writes back."""
    model.config.source_switches = {
        name: switches[name] for name in KEPT_SWITCHES if switches.get(name, SWITCHES[name]) != SWITCHES[name]
    }
    if not model.config.source_switches:
        del model.config.source_switches


def load_config(name: str | Path, pooling: str | None = None) -> transformers.PreTrainedConfig:
    """The configuration of a model that can be pruned, see :func:`load_dense`. Raises InputError for any other."""
    where = local(name)
    _check_folder(where)
    with reading(name):
        raw, _ = transformers.PreTrainedConfig.get_config_dict(where)
        if not isinstance(raw, dict):
            raise InputError(f"{name}: config.json is not a JSON object")
        check_values(raw, name)
        neutral: dict = {switch: value for switch, value in SWITCHES.items() if raw.get(switch, value) != value}
        if raw.get("attn_implementation") or raw.get("_attn_implementation"):
            # What it was trained with need not be installed here.
            neutral["attn_implementation"] = usual_attention(raw.get("model_type"))
        config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False, **neutral)
        sentence.attach(config, where, pooling)
    check_supported(config)
    check_size(raw, Path(where), name)
    if changed := {switch: raw[switch] for switch in neutral if switch in KEPT_SWITCHES}:
        config.source_switches = changed
    return config


def _check_folder(name: str | Path) -> None:
    """Refuse a path of no folder, a configuration that is none, and adapters beside the weights."""
    folder, text = Path(name), str(name)
    if not folder.is_dir():
        if isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
            raise InputError(f"{name}: there is no such folder; give a folder with a model, or its name on the hub")
        return
    for file in sorted(folder.iterdir()):  # whatever is there, transformers may open it
        if file.exists() and not file.is_dir():
            check_regular(file, FILE_BYTES if file.suffix in (".json", ".txt", ".model", ".jinja") else None)
    check_tokenizer_files(folder)
    if (folder / "config.json").exists():
        read_object(folder / "config.json")
    check_adapters(folder, name)


def read_object(file: Path) -> dict:
    """The JSON object in a file. Raises InputError for anything else."""
    document = read_json(file)
    if not isinstance(document, dict):
        raise InputError(f"{file}: is not a JSON object; save the model again")
    return document


def load_tokenizer(name: str | Path) -> Any:
    """The tokenizer beside a model, or the image processor of one of images. Raises InputError when there is none."""
    folder, missing = (
        Path(local(name)),
        f"{name}: there are no tokenizer files beside the model; save its tokenizer there",
    )
    _check_folder(local(name))
    with reading(name):
        raw, _ = transformers.PreTrainedConfig.get_config_dict(local(name))
        if (family := FAMILIES.get(str(raw.get("model_type")))) and family.image_tokens:
            return load_image_reader(local(name), name)
    if folder.is_dir() and not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        raise InputError(missing)
    with reading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(local(name), trust_remote_code=False)
    # Where its files are missing, transformers invents a tokenizer that knows little but its special tokens.
    files = [*getattr(tokenizer, "vocab_files_names", {}).values()]
    invented = bool(files) and folder.is_dir() and not any((folder / file).is_file() for file in files)
    if invented or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(missing)
    check_tokenizer(tokenizer, name)
    return tokenizer


def load(folder: str | Path, *, device: str | torch.device = "cpu") -> transformers.PreTrainedModel:
    """Load a model that fastprune saved.

    Parameters
    ----------
    folder : str or Path
        Holds ``config.json``, ``model.safetensors`` and ``manifest.json``, in either layout.

    Returns
    -------
    PreTrainedModel
        In evaluation mode. No code from the folder is run: the classes are this package's own.

    Raises
    ------
    InputError
        Not such a folder, or a damaged file in it.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: no config.json here; give the folder of a pruned model "
            "(the output folder of `fastprune compress`)"
        )
    _check_folder(folder)
    if is_portable(folder):
        model = load_dense(folder, device=device)
        _check_digest(folder, model)
        return model
    from fastprune.model import modeling_fastprune  # transformers' modelling code: seconds, and few stages need it

    with reading(folder):
        raw = read_object(folder / "config.json")
        check_values(raw, folder)
        name = (raw.get("architectures") or [""])[0]
    if not name.startswith("Pruned") or not hasattr(modeling_fastprune, name):
        raise InputError(
            f"{folder}: config.json names the architecture {name!r}, which is not a model pruned by "
            "fastprune; load it with transformers"
        )
    check_size(raw, folder, folder)
    with reading(folder):
        model, loading = getattr(modeling_fastprune, name).from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    for key, fault in (("missing_keys", "has no weights for"), ("unexpected_keys", "has weights without a place:")):
        if loading[key]:
            raise InputError(
                f"{folder}: model.safetensors {fault} {', '.join(sorted(loading[key])[:3])}; copy the folder again"
            )
    sentence.attach(model.config, folder)
    check_finite(model)
    _check_digest(folder, model)
    return model.to(device).eval()


def is_portable(folder: Path) -> bool:
    """Whether a folder is, by its manifest, a pruned model that is a plain one of its architecture."""
    document = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
    return isinstance(document, dict) and document.get("layout") == "portable"


def _check_digest(folder: Path, model: transformers.PreTrainedModel) -> None:
    """The manifest names the weights that it was written for; a folder of version 0.1.0 names none."""
    if not (folder / MANIFEST).is_file():
        return
    with reading(folder):
        named = read_object(folder / MANIFEST).get(WEIGHTS_DIGEST)
    if named is not None and named != digest(model):
        raise InputError(
            f"{folder}: the weights are not those that {MANIFEST} names ({WEIGHTS_DIGEST}); copy the folder again, "
            f"or save a model that you trained on to a folder of its own"
        )


def save(
    output_dir: str | Path,
    model: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    manifest: dict,
    *,
    beside: Callable[[Path], object] | None = None,
    **documents: dict,
) -> Path:
    """Write a pruned model, its tokenizer, its manifest and the modelling file that sizes its layers.

    Parameters
    ----------
    output_dir : str or Path
        Must not exist; it appears whole or not at all.
    manifest : dict
        Goes into ``manifest.json``.
    beside : callable, optional
        Writes what else belongs into the folder, once all of this is there.
    **documents : dict
        More JSON documents: ``metrics={...}`` goes into ``metrics.json``.

    Raises
    ------
    InputError
        ``output_dir`` exists.
    """
    with new_folder(output_dir) as folder:
        write_model(folder, model, tokenizer)
        manifest = {WEIGHTS_DIGEST: digest(model)} | manifest
        for name, document in {"manifest": manifest, **documents}.items():
            (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
        if beside is not None:
            beside(folder)
    return Path(output_dir)


def saved_bytes(model: transformers.PreTrainedModel) -> int:
    """Bytes of a model's weights as :func:`save` writes them."""
    return sum(weight.numel() for weight in model.parameters()) * precision_of(model).itemsize


def write_model(
    folder: Path, model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    """Write a model, in the source's precision and with the source's switches, and its tokenizer."""
    try:
        save_weights(model, folder)
    except SafetensorError as error:  # its name for a full disk, among others
        raise OSError(str(error)) from error
    save_tokenizer(tokenizer, folder)
    switches = getattr(model.config, "source_switches", {})
    sentence.write(folder, model.config)

    def as_the_source(config: dict) -> None:
        for name in ("source_switches", sentence.DOCUMENTS, PIPELINES):
            config.pop(name, None)
        config.update(switches)
        if config.pop(NAME, None):
            config["dtype"] = str(precision_of(model)).removeprefix("torch.")

    edit_document(folder / "config.json", as_the_source)


def check_finite(model: transformers.PreTrainedModel) -> None:
    """Raise InputError naming the first weight that holds NaN or infinity."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(
                f"weight {name} of shape {list(tensor.shape)} holds NaN or infinite values; "
                "the checkpoint is damaged: save it again from a training run that did not diverge"
            )


def digest(model: transformers.PreTrainedModel) -> str:
    """SHA-256 over every weight's name, dtype, shape and bytes, however the model is stored."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.view(torch.uint8).numpy() if tensor.numel() else b"")
    return state.hexdigest()
