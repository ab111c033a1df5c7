"""A tiny model and data of each problem, as a configuration names them; the models are random."""

import numpy as np
import torch
import transformers
from PIL import Image
from tiny_data import LONG, squad_file
from tiny_sentences import sentence_folder, texts, write_rows

QUERIES = ("who won", "what is it", "a good film")
PASSAGES = ("the king won", "a dull movie", "it is a film", "very good", "not bad")


def of_embeddings(folder, tokenizer, tiny_bert):
    """Texts alone."""
    source = sentence_folder(folder / "vectors", tokenizer)
    train = write_rows(folder / "texts.jsonl", [{"text": text} for text in texts(60)])
    return {"source": str(source), "train_file": str(train), "text_columns": ["text"], "metric": "cosine_to_dense"}


def of_pairs(folder, tokenizer, tiny_bert):
    tiny_bert(num_labels=1).save_pretrained(folder / "scores")
    tokenizer.save_pretrained(folder / "scores")
    rows = [
        {"query": query, "passage": passage, "relevance": (first + second) % 3}
        for first, query in enumerate(QUERIES)
        for second, passage in enumerate(PASSAGES)
    ]
    train, held = write_rows(folder / "train.jsonl", rows[:10]), write_rows(folder / "eval.jsonl", rows[5:])
    model = {"source": str(folder / "scores"), "train_file": str(train), "eval_file": str(held)}
    return model | {"text_columns": ["query", "passage"], "label_column": "relevance", "problem": "reranking"}


def of_images(folder, tokenizer, tiny_bert):
    """Folders of classes; of unlike sizes and colours."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    names = {number: f"class {number}" for number in range(3)}
    config = transformers.ViTConfig(
        **sizes, image_size=8, patch_size=4, id2label=names, label2id={name: number for number, name in names.items()}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.ViTForImageClassification(config)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder / "seen")
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder / "seen")
    draw = np.random.default_rng(0)
    for row in range(60):
        place = folder / ("shown" if row < 40 else "held") / f"class {row % 3}"
        place.mkdir(parents=True, exist_ok=True)
        shape = [(8, 8, 3), (5, 20), (30, 12, 4)][row % 4 % 3]
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(place / f"{row}.png")
    model = {"source": str(folder / "seen"), "train_file": str(folder / "shown"), "eval_file": str(folder / "held")}
    return model | {"text_columns": ["image"], "label_column": "label"}


def of_tags(folder, tokenizer, tiny_bert):
    """A tag for each word, in JSON lines."""
    names = dict(enumerate(("O", "B-WHO", "I-WHO", "B-IT")))
    config = tiny_bert(4, id2label=names, label2id={name: number for number, name in names.items()}).config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertForTokenClassification(config).save_pretrained(folder / "tagged")
    tokenizer.save_pretrained(folder / "tagged")
    draw = np.random.default_rng(0)
    words = [text.split() for text in texts(60)]
    rows = [{"tokens": of, "tags": [names[number] for number in draw.integers(0, 4, len(of))]} for of in words]
    columns = {"text_columns": ["tokens"], "label_column": "tags", "metric": "accuracy"}
    return labelled(folder, "tags", folder / "tagged", rows) | columns


def of_topics(folder, tokenizer, tiny_bert):
    """Any number of labels for each text, as lists of names in JSON lines."""
    names = dict(enumerate(("dull", "good", "long")))
    ids = {name: number for number, name in names.items()}
    model = tiny_bert(3, problem_type="multi_label_classification", id2label=names, label2id=ids)
    model.save_pretrained(folder / "topical")
    tokenizer.save_pretrained(folder / "topical")
    draw = np.random.default_rng(0)
    rows = [{"text": text, "label": [names[n] for n in np.flatnonzero(draw.integers(0, 2, 3))]} for text in texts(60)]
    return labelled(folder, "topics", folder / "topical", rows) | {"text_columns": ["text"], "label_column": "label"}


def of_inference(folder, tokenizer, tiny_bert):
    """Labels that the model was never trained on."""
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    model = tiny_bert(3, id2label=names, label2id={name: number for number, name in names.items()})
    model.save_pretrained(folder / "inferring")
    tokenizer.save_pretrained(folder / "inferring")
    rows = [{"text": text, "label": ("dull", "good", "long")[row % 3]} for row, text in enumerate(texts(60))]
    columns = {"text_columns": ["text"], "label_column": "label"}
    return labelled(folder, "hypotheses", folder / "inferring", rows) | columns | {"problem": "zero-shot"}


def of_answers(folder, tokenizer, tiny_bert):
    """Spans of contexts, in a file of SQuAD's form."""
    tiny_bert(problem="question-answering").save_pretrained(folder / "answering")
    tokenizer.save_pretrained(folder / "answering")
    starts = [place + 1 for place, letter in enumerate(LONG[:300]) if letter == " "]

    def asked(name, places):
        answered = [(f"{name}{at}", "who won ?", [(LONG[at:].split()[0], at)]) for at in places]
        return str(squad_file(folder / f"{name}.json", [(LONG[:400], answered)]))

    return {
        "source": str(folder / "answering"),
        "train_file": asked("train", starts[:30]),
        "eval_file": asked("eval", starts[30:50]),
    }


def labelled(folder, name, source, rows):
    """Two thirds of the rows to prune on, the others to evaluate on."""
    train, held = write_rows(folder / f"{name}.jsonl", rows[:40]), write_rows(folder / f"{name}-held.jsonl", rows[40:])
    return {"source": str(source), "train_file": str(train), "eval_file": str(held)}


MADE = {
    "vectors": of_embeddings,
    "scores": of_pairs,
    "images": of_images,
    "tags": of_tags,
    "topics": of_topics,
    "hypotheses": of_inference,
    "answers": of_answers,
}
