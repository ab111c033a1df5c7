"""Every problem of a served answer its own, from the file of a sweep to what MLflow serves: what was evaluated."""

import base64
import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from sklearn.metrics import f1_score
from tiny_problems import MADE

from fastprune.cli.main import main
from fastprune.data import read_table
from fastprune.data.preparation import hold_back
from fastprune.data.ranking import ranking_scores

RELEASED = ("vectors", "scores", "images", "tags", "topics", "hypotheses")


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_tokenizer, tiny_bert):
    """All of them in one run, registered; then each under a policy of its own and promoted."""
    root, own = tmp_path_factory.mktemp("released"), pytest.MonkeyPatch()
    own.setenv("FASTPRUNE_CACHE", str(root / "cache"))
    uri = f"sqlite:///{root}/mlflow.db"
    models = [{"name": name, **MADE[name](root, tiny_tokenizer, tiny_bert)} for name in RELEASED]
    sweep = {"name": "tiny", "models": models, "budgets": [{"keep_ratio": 0.6}], "num_samples": 32, "device": "cpu"}
    (root / "sweep.yaml").write_text(yaml.safe_dump(sweep | {"allow_untuned": True, "tracking": {"uri": uri}}))
    (root / "policy.yaml").write_text("max_accuracy_drop: 1.0\n")

    def tell(*arguments):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 0, done.output

    tell("run", root / "sweep.yaml", "--output-dir", root / "out", "--work-dir", root / "work")
    for name in RELEASED:
        tell("policy", "set", f"tiny-{name}", root / "policy.yaml", "--why", "agreed", "--tracking-uri", uri)
        tell("promote", f"tiny-{name}", 1, "--why", "first", "--tracking-uri", uri)
    own.undo()
    return root


def served(root, name):
    """The champion of a name, and the metrics of its compression."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    [metrics] = (root / "out" / name).rglob("metrics.json")
    return mlflow.pyfunc.load_model(f"models:/tiny-{name}@champion"), json.loads(metrics.read_text())


@pytest.mark.filterwarnings("ignore")
def test_vectors_are_as_near_to_the_dense_models_as_was_evaluated(ran):
    champion, metrics = served(ran, "vectors")
    held = hold_back(read_table(ran / "texts.jsonl"), 0)[1]["text"][:]
    found = np.array(champion.predict(held)["embedding"].tolist())
    dense = SentenceTransformer(str(ran / "vectors"), device="cpu").encode(held)
    assert metrics["metric"] == "cosine_to_dense" and metrics["pruned"] < 1 - 1e-4
    assert (found * dense).sum(1).mean() == pytest.approx(metrics["pruned"], abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_scores_rank_as_was_evaluated(ran):
    champion, metrics = served(ran, "scores")
    rows = read_table(ran / "eval.jsonl").to_pandas()
    scores = champion.predict(rows.rename(columns={"query": "text", "passage": "text_pair"})[["text", "text_pair"]])
    ranked = [
        (scores["score"].to_numpy()[of.index], of["relevance"].to_numpy(float)) for _, of in rows.groupby("query")
    ]
    assert ranking_scores(ranked)["ndcg_at_10"].mean() == pytest.approx(metrics["pruned"])


@pytest.mark.filterwarnings("ignore")
def test_images_are_served_the_classes_that_were_evaluated(ran):
    """As bytes, as HTTP brings them, and with what is none refused by its row."""
    import mlflow
    import pandas
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    champion, metrics = served(ran, "images")
    files = sorted((ran / "held").rglob("*.png"))
    answers = champion.predict(pandas.DataFrame({"image": [file.read_bytes() for file in files]}))
    right = np.mean(answers["label"].to_numpy() == [file.parent.name for file in files])
    assert right == pytest.approx(metrics["pruned"]) and len(set(answers["label"])) > 1

    encoded = [base64.b64encode(file.read_bytes()).decode() for file in files]
    body = {"dataframe_split": {"columns": ["image"], "data": [[text] for text in encoded]}}
    over_http = infer_and_parse_data(body, champion.metadata.get_input_schema())
    assert champion.predict(over_http).equals(answers) and champion.predict(
        pandas.DataFrame({"image": encoded})
    ).equals(answers)
    for bad, message in (
        (b"none", "row 2 of column 'image' cannot be read as an image"),
        (str(files[0]), "row 2 of column 'image' is a text, and no base64"),
        (3, "row 2 of column 'image' holds a int, not an image"),
    ):
        with pytest.raises(mlflow.MlflowException, match=message):
            champion.predict(pandas.DataFrame({"image": [files[0].read_bytes(), bad]}))
    with pytest.raises(mlflow.MlflowException, match="the first column is 'file'; the image belongs there"):
        champion.predict(pandas.DataFrame({"file": encoded}))


@pytest.mark.filterwarnings("ignore")
def test_words_are_served_the_tags_that_were_evaluated(ran):
    champion, metrics = served(ran, "tags")
    rows = read_table(ran / "tags-held.jsonl")
    answers = champion.predict([" ".join(words) for words in rows["tokens"]])
    told = [word["tag"] for row in answers["words"] for word in json.loads(row)]
    right = np.mean([one == other for one, other in zip(told, sum(rows["tags"][:], []), strict=True)])
    assert metrics["metric"] == "accuracy" and right == pytest.approx(metrics["pruned"]) and len(set(told)) > 1
    [entity, *_] = [one for row in answers["entities"] for one in json.loads(row)]
    assert entity["type"] in ("WHO", "IT")


@pytest.mark.filterwarnings("ignore")
def test_texts_are_served_the_labels_that_were_evaluated(ran):
    champion, metrics = served(ran, "topics")
    rows, names = read_table(ran / "topics-held.jsonl"), ("dull", "good", "long")
    answers = champion.predict(rows["text"][:])
    found, wanted = (
        [[name in row for name in names] for row in labels]
        for labels in (map(json.loads, answers["labels"]), rows["label"])
    )
    assert metrics["metric"] == "micro_f1" and 0 < metrics["pruned"] < 1
    assert f1_score(wanted, found, average="micro") == pytest.approx(metrics["pruned"])


@pytest.mark.filterwarnings("ignore")
def test_labels_that_come_with_the_text_are_told_as_was_evaluated(ran):
    import pandas

    champion, metrics = served(ran, "hypotheses")
    rows = read_table(ran / "hypotheses-held.jsonl")
    answers = champion.predict(pandas.DataFrame({"text": rows["text"][:], "labels": "dull|good|long"}))
    assert np.mean(answers["label"].to_numpy() == rows["label"][:]) == pytest.approx(metrics["pruned"])
    assert len(set(answers["label"])) > 1
