"""What sentence-transformers keeps beside a model: read, checked, written again."""

import json

import pytest
from tiny_sentences import MEAN, NEW, modules, sentence_folder, write

from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.model.sentence import DOCUMENTS, embedding_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    return sentence_folder(tmp_path_factory.mktemp("sentence") / "model", tiny_tokenizer)


@pytest.fixture
def own(tmp_path, folder):
    """The folder's documents alone, to be changed; enough for its configuration."""
    for file in folder.rglob("*.json"):
        target = tmp_path / file.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    return tmp_path


def test_an_old_folder(folder):
    assert embedding_of(checkpoint.load_config(folder)) == {
        "pooling": "mean",
        "normalize": True,
        "similarity": "cosine",
        "prompts": {},
        "prompt": "",
        "max_length": 32,
    }


@pytest.mark.parametrize("mode", ["cls", "max", "mean"])
def test_a_new_folder(own, mode):
    write(
        own,
        modules=modules("Transformer", "Pooling", names=NEW),
        **{"1_Pooling__config": {"embedding_dimension": 16, "pooling_mode": mode, "include_prompt": True}},
        config_sentence_transformers={
            "model_type": "SentenceTransformer",
            "prompts": {"query": "ask: ", "document": None},
            "default_prompt_name": "query",
            "similarity_fn_name": "dot",
        },
        sentence_bert_config={
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        },
    )
    assert embedding_of(checkpoint.load_config(own)) == {
        "pooling": mode,
        "normalize": False,
        "similarity": "dot",
        "prompts": {"query": "ask: ", "document": ""},
        "prompt": "ask: ",
        "max_length": 0,
    }


def test_whatever_head_it_was_pretrained_with(own):
    write(own, config=json.loads((own / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]})
    assert checkpoint.load_config(own).architectures == ["BertModel"]


def test_a_pooler_that_is_not_there_is_not_left_to_chance(tmp_path, tiny_tokenizer):
    from safetensors.torch import load_file, save_file

    folder = sentence_folder(tmp_path / "model", tiny_tokenizer)
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert not checkpoint.load_dense(folder).pooler.dense.weight.any()


def test_a_pooling_by_name(own, tiny_tokenizer):
    (own / "modules.json").unlink()
    with pytest.raises(
        InputError, match="a BertModel cannot be pruned: it has no task head; if it makes embeddings, name its p"
    ):
        checkpoint.load_config(own)
    config = checkpoint.load_config(own, "cls")
    assert embedding_of(config)["pooling"] == "cls" and embedding_of(config)["normalize"]
    assert [module["type"].split(".")[-1] for module in getattr(config, DOCUMENTS)["modules.json"]] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]


def test_a_cross_encoder_is_no_embedding_model(own):
    write(
        own,
        modules=modules("Transformer", names=NEW),
        config_sentence_transformers={"model_type": "CrossEncoder"},
        config=json.loads((own / "config.json").read_text())
        | {"architectures": ["BertForSequenceClassification"], "num_labels": 1},
    )
    config = checkpoint.load_config(own)
    assert not embedding_of(config) and "modules.json" in getattr(config, DOCUMENTS)


@pytest.mark.parametrize(
    "documents, refused",
    [
        ({"modules": {}}, "modules.json: is no JSON list"),
        ({"modules": [{"path": ""}]}, "has an entry without path and type"),
        ({"modules": modules("Transformer", "Pooling", "Dense")}, "a Dense module stands behind the pooling"),
        ({"modules": modules("Transformer", "WordWeights")}, "has Transformer, WordWeights; supported"),
        ({"modules": modules("Transformer")}, "has Transformer; supported"),
        ({"modules": [{"path": "", "type": "own.Transformer"}]}, "own.Transformer has code of its own"),
        ({"modules": [{"path": "../x", "type": f"{NEW['Transformer']}"}]}, "lies outside the folder"),
        (
            {
                "modules": [
                    {"path": "0_BERT", "type": NEW["Transformer"]},
                    {"path": "1_Pooling", "type": NEW["Pooling"]},
                ]
            },
            "the model lies in '0_BERT' and not beside modules.json",
        ),
        ({"1_Pooling__config": {"pooling_mode": "lasttoken"}}, "the pooling is lasttoken; supported: one of mean, cls"),
        ({"1_Pooling__config": {"pooling_mode": ["cls", "mean"]}}, "the pooling is cls and mean"),
        ({"1_Pooling__config": {**MEAN, "pooling_mode_max_tokens": True}}, "the pooling is max and mean"),
        ({"1_Pooling__config": MEAN | {"word_embedding_dimension": 8}}, "is of 8 numbers a token, and the model .* 16"),
        (
            {
                "1_Pooling__config": {"pooling_mode": "mean", "include_prompt": False},
                "config_sentence_transformers": {"prompts": {"query": "ask"}},
            },
            "leaves the prompt out",
        ),
        ({"config_sentence_transformers": {"prompts": ["a"]}}, "is not an object of texts by name"),
        ({"config_sentence_transformers": {"default_prompt_name": "query"}}, "has no such prompt"),
        ({"config_sentence_transformers": {"similarity_fn_name": "euclidean"}}, "supported: cosine and dot"),
        ({"sentence_bert_config": {"max_seq_length": "long"}}, "max_seq_length is 'long'"),
        ({"sentence_bert_config": {"transformer_task": "fill-mask"}}, "for 'fill-mask'; supported: last_hidden_state"),
    ],
)
def test_refused(own, documents, refused):
    write(own, **documents)
    with pytest.raises(InputError, match=refused):
        checkpoint.load_config(own)


def test_another_pooling_than_the_folders_own(folder):
    with pytest.raises(InputError, match="its pooling is 'mean' .*, and 'max' is asked for; leave pooling out"):
        checkpoint.load_config(folder, "max")
