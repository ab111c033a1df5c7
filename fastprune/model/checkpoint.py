"""Reading dense models, and saving and loading pruned ones: safetensors and JSON only, never pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError

from fastprune.errors import InputError
from fastprune.model.architectures import check_supported
from fastprune.store.storage import local, new_folder

MANIFEST = "manifest.json"


def load_dense(
    name: str | Path, *, device: str | torch.device = "cpu", allow_untuned: bool = False
) -> transformers.PreTrainedModel:
    """Load a fine-tuned model in float32, whatever precision it is stored in.

    Parameters
    ----------
    name : str or Path
        A local folder, an ``s3://`` prefix or a hub name.
    allow_untuned : bool
        Go on although the checkpoint has no weights for its task head.

    Raises
    ------
    InputError
        No such model, no safetensors file or a damaged one, an unsupported architecture, a task head without
        weights, or a weight that is not finite.
    """
    config = load_config(name)
    question_answering = "QuestionAnswering" in (config.architectures or [""])[0]
    auto = (
        transformers.AutoModelForQuestionAnswering
        if question_answering
        else transformers.AutoModelForSequenceClassification
    )
    with _reading(name):
        model, loading = auto.from_pretrained(
            local(name), config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    if loading["missing_keys"] and not allow_untuned:
        raise InputError(
            f"{name}: the checkpoint has no weights for {', '.join(sorted(loading['missing_keys']))}: "
            "it was not fine-tuned for this task; fine-tune it first (or pass --allow-untuned)"
        )
    check_finite(model)
    return model.to(device).eval()


def load_config(name: str | Path) -> transformers.PreTrainedConfig:
    """The configuration of a model that can be pruned. Raises InputError for any other."""
    with _reading(name):
        config = transformers.AutoConfig.from_pretrained(local(name))
    check_supported(config)
    return config


def load_tokenizer(name: str | Path) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises InputError when there is none."""
    with _reading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(local(name))
    # Where its files are missing, transformers invents a tokenizer that knows only its special tokens.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"{name}: there are no tokenizer files beside the model; save its tokenizer there")
    return tokenizer


def load(folder: str | Path, *, device: str | torch.device = "cpu") -> transformers.PreTrainedModel:
    """Load a model that fastprune saved.

    Parameters
    ----------
    folder : str or Path
        Holds ``config.json``, ``model.safetensors`` and ``manifest.json``.

    Returns
    -------
    PreTrainedModel
        In evaluation mode. No code from the folder is run: the classes are this package's own.

    Raises
    ------
    InputError
        Not such a folder, or a damaged file in it.
    """
    from fastprune.model import modeling_fastprune  # transformers' modelling code: seconds, and few stages need it

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: no config.json here; give the folder of a pruned model "
            "(the output folder of `fastprune compress`)"
        )
    with _reading(folder):
        name = (json.loads((folder / "config.json").read_text()).get("architectures") or [""])[0]
    if not name.startswith("Pruned") or not hasattr(modeling_fastprune, name):
        raise InputError(
            f"{folder}: config.json names the architecture {name!r}, which is not a model pruned by "
            "fastprune; load it with transformers"
        )
    with _reading(folder):
        model = getattr(modeling_fastprune, name).from_pretrained(folder, use_safetensors=True)
    return model.to(device).eval()


def save(
    output_dir: str | Path,
    model: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    manifest: dict,
    **documents: dict,
) -> Path:
    """Write a pruned model, its tokenizer, its manifest and the modelling file that sizes its layers.

    Parameters
    ----------
    output_dir : str or Path
        Must not exist; it appears whole or not at all.
    manifest : dict
        Goes into ``manifest.json``.
    **documents : dict
        More JSON documents: ``metrics={...}`` goes into ``metrics.json``.

    Raises
    ------
    InputError
        ``output_dir`` exists.
    """
    with new_folder(output_dir) as folder:
        source = Path(__file__).with_name("modeling_fastprune.py")
        task = "QuestionAnswering" if "QuestionAnswering" in type(model).__name__ else "SequenceClassification"
        model.config.auto_map = {f"AutoModelFor{task}": f"{source.stem}.{type(model).__name__}"}
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.copyfile(source, folder / source.name)
        for name, document in {"manifest": manifest, **documents}.items():
            (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    return Path(output_dir)


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


@contextmanager
def _reading(name: str | Path) -> Iterator[None]:
    """Turn what goes wrong while reading a model folder into an InputError that names it."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # our own messages name missing weights
    try:
        yield
    except InputError:
        raise
    except SafetensorError as error:
        raise InputError(f"{name}: its safetensors file is truncated or damaged ({error}); copy it again") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise InputError(
            f"{name}: the shapes of its weights are not those that its config.json gives; "
            "save both again from one model"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: cannot be read as a model with a tokenizer and safetensors weights: {str(error).splitlines()[0]}"
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(level)
