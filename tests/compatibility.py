"""Pruned models in other versions of transformers, with and without fastprune: the long form, `make compatibility`.

    python -m tests.compatibility [VERSION ...]

Tiny pruned models of every family and problem, with layers that keep nothing, are saved here with the outputs that they
should have. For every version an environment of its own is made (below .cache/compatibility), with torch from this one;
there every model is loaded by transformers alone, run with both attention implementations, saved again and loaded
again. Prints a row a version; the exit status is 1 where an output differs by more than 1e-5.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import numpy as np
import transformers

VERSIONS = ("4.48.3", "4.57.6", "5.0.0", "5.24.0")

CHECK = """
import json, sys, warnings
from pathlib import Path
import numpy as np, torch, transformers
warnings.filterwarnings("ignore")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
if "fastprune" in sys.modules or __import__("importlib.util").util.find_spec("fastprune"):
    sys.exit("fastprune can be imported here")
worst, loaded, lacking, again = 0.0, 0, [], Path(sys.argv[2])
for folder in sorted(Path(sys.argv[1]).iterdir()):
    saved = np.load(folder / "expected.npz")
    batch = {name: torch.from_numpy(saved[name]) for name in saved.files if name not in ("output", "attentions")}
    config = json.loads((folder / "config.json").read_text())
    if not hasattr(transformers, config["architectures"][0].removeprefix("Pruned")):
        lacking.append(folder.name)
        continue
    # What a token puts out that is padding differs from one way of attention to another, and nobody reads it.
    by_token = config["architectures"][0].endswith(("QuestionAnswering", "TokenClassification"))
    read = saved["attention_mask"].astype(bool) if by_token else ...
    (auto,) = (getattr(transformers, name) for name in config["auto_map"])
    for attention in saved["attentions"].tolist():
        try:
            model = auto.from_pretrained(folder, trust_remote_code=True, attn_implementation=attention).eval()
        except ValueError as error:
            if attention == "eager" or "does not support an attention implementation" not in str(error):
                raise
            lacking.append(f"{attention} of {folder.name}")
            continue
        for _ in range(2):
            with torch.no_grad():
                worst = max(worst, np.abs(model(**batch)[0].numpy() - saved["output"])[read].max())
            loaded += 1
            model.save_pretrained(again / f"{folder.name}-{attention}")
            model = auto.from_pretrained(
                again / f"{folder.name}-{attention}", trust_remote_code=True, attn_implementation=attention
            ).eval()
print(f"transformers {transformers.__version__:<10} {loaded} models run, outputs differ by at most {worst:.1e}")
if lacking:
    print(f"    which has no {', '.join(lacking)}")
sys.exit(int(worst > 1e-5))
"""


def save_models(folder: Path) -> None:
    """Every family and problem, with its output on a padded batch."""
    from tiny_models import CASES, batch_for, build, extreme_masks

    from fastprune.model.architectures import describe
    from fastprune.model.families import FAMILIES as DESCRIPTIONS
    from fastprune.model.losses import inputs_of
    from fastprune.model.surgery import slice_model

    for family, problem in CASES:
        encoder = describe(build(family, problem, num_layers=5))
        model = slice_model(encoder, extreme_masks(encoder))
        place = folder / f"{family}-{problem}"
        model.save_pretrained(place)
        batch = inputs_of(batch_for(encoder.model), "cpu")
        output = model(**batch)[0].detach().numpy()
        told = {"output": output, "attentions": np.array(DESCRIPTIONS[family.partition(",")[0]].attentions)}
        np.savez(place / "expected.npz", **told, **{name: value.numpy() for name, value in batch.items()})


def environment(version: str) -> Path:
    """The interpreter of an environment with that version of transformers, and torch from this one."""
    place = Path(".cache", "compatibility", version).resolve()
    python = place / "bin" / "python"
    if not (place / "done").exists():
        venv.create(place, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, f"transformers=={version}"], check=True)
        site = next(place.glob("lib/python*/site-packages"))
        (site / "torch_of_the_project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        (place / "done").touch()
    return python


def main(versions: list[str]) -> int:
    failed = 0
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as work:
        models = Path(work, "models")
        save_models(models)
        for version in versions or VERSIONS:
            again = Path(work, version)
            settings = {"HF_MODULES_CACHE": str(again / "modules"), "HF_HUB_OFFLINE": "1"}
            command = [environment(version), "-c", CHECK, str(models), str(again / "again")]
            done = subprocess.run(command, cwd=work, env={**os.environ, **settings, "PYTHONPATH": ""})
            failed |= done.returncode
    return failed


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main(sys.argv[1:]))
