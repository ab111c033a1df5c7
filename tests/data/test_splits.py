import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from tiny_data import QA, SINGLE, texts

from fastprune.data import Split, Task, draw_sample, encode, hold_out, make_batches
from fastprune.data.parquet import Bounds
from fastprune.data.splits import draw_rows, draw_tokens
from fastprune.errors import InputError

# Saving


def test_split_survives_saving(tmp_path, questions, split, tiny_tokenizer, config):
    asked = encode(questions, tiny_tokenizer, QA, config(), for_evaluation=True)
    for number, one in enumerate((split, asked)):
        one.save(tmp_path / f"{number}/split")
        loaded = Split.load(tmp_path / f"{number}/split")
        assert (loaded.task, loaded.digest) == (one.task, one.digest)
        assert loaded.features[:] == one.features[:]
        assert loaded.features.features == one.features.features
        assert (loaded.examples and loaded.examples[:]) == (one.examples and one.examples[:])


def test_damaged_split_is_refused(tmp_path, split):
    with pytest.raises(InputError, match="holds no complete encoded split"):
        Split.load(tmp_path)
    split.save(tmp_path)
    other = split.select(np.arange(len(split))[::-1])
    pq.write_table(other.features.with_format("arrow")[:], tmp_path / "features.parquet")
    with pytest.raises(InputError, match="not what was saved"):
        Split.load(tmp_path)
    path = tmp_path / "features.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="holds no complete encoded split"):
        Split.load(tmp_path)


def test_a_split_that_stands_for_more_than_texts_can_give_is_refused(tmp_path, split, monkeypatch):
    split.save(tmp_path)
    monkeypatch.setattr("fastprune.data.splits.TOKENS", Bounds(1000, 1 << 20))
    with pytest.raises(InputError, match=r"features\.parquet: has more than 1,000 values"):
        Split.load(tmp_path)


def test_digest_tells_contents_apart(split, tiny_tokenizer, config):
    def digest(rows, labels, task=SINGLE):
        table = Dataset.from_dict({"text": rows, "label": labels})
        return encode(table, tiny_tokenizer, task, config()).digest

    rows = ["good film", "bad"]
    base = digest(rows, [0, 1])
    assert base == digest(rows, ["LABEL_0", "LABEL_1"])
    others = {digest(rows, [1, 1]), digest(rows[::-1], [0, 1]), digest(["good", "film bad"], [0, 1])}
    others.add(digest(rows, [0, 1], Task("other", "classification", "accuracy", ("text",), "label")))
    assert base not in others and len(others) == 4
    assert split.select(np.arange(len(split))).digest == split.digest


# Sampling


def test_sample_is_drawn_without_replacement(tiny_tokenizer, config):
    rows = [f"good {number}" for number in range(100)]
    whole = encode(Dataset.from_dict({"text": rows, "label": [0] * 100}), tiny_tokenizer, SINGLE, config())
    drawn = draw_sample(whole, 60, seed=3)
    assert len({tuple(ids) for ids in drawn.features["input_ids"]}) == len(drawn) == 60
    assert drawn.digest == draw_sample(whole, 60, seed=3).digest != draw_sample(whole, 60, seed=4).digest
    assert draw_sample(whole, 100, seed=3) is whole
    with pytest.raises(InputError, match="num_samples is 0"):
        draw_sample(whole, 0, seed=3)


def test_a_sample_of_so_many_tokens(split, questions, tiny_tokenizer, config):
    asked = encode(questions, tiny_tokenizer, QA, config(max_position_embeddings=100))
    for whole, number in ((split, len(split)), (asked, len(set(asked.features["example_id"])))):
        tokens = round(whole.mean_length * len(whole))
        assert draw_tokens(whole, tokens + number, 1, seed=3) is whole
        some = draw_tokens(whole, tokens // 2, 1, seed=3)
        assert some.digest == draw_sample(whole, tokens // 2 * number // tokens, seed=3).digest
        assert draw_tokens(whole, 1, 5, seed=3).digest == draw_sample(whole, 5, seed=3).digest


def test_a_sample_is_the_same_whether_all_rows_become_tokens_or_those_drawn(questions, tiny_tokenizer, config):
    words = Dataset.from_dict({"text": texts(50), "label": [0, 1] * 25, "score": [n / 7 for n in range(50)]})
    for table, task, model in (
        (words, SINGLE, config()),
        (words, Task("score", "regression", "pearson", ("text",), "score"), config(1)),
        (questions, QA, config(max_position_embeddings=100)),
    ):
        for number in (1, 20, len(table), 1000):
            whole = draw_sample(encode(table, tiny_tokenizer, task, model), number, seed=5)
            drawn = encode(table, tiny_tokenizer, task, model, rows=draw_rows(len(table), number, seed=5))
            assert drawn.digest == whole.digest and drawn.features[:] == whole.features[:]


def test_select_may_repeat_rows(split):
    twice = split.select([4, 4, 1])
    assert twice.features["input_ids"][:] == [split.features["input_ids"][row] for row in (4, 4, 1)]


def test_questions_are_drawn_whole(questions, tiny_tokenizer, config):
    asked = encode(questions, tiny_tokenizer, QA, config(max_position_embeddings=100), for_evaluation=True)
    drawn = draw_sample(asked, 10, seed=0)
    chosen = set(drawn.features["example_id"])
    assert len(chosen) == 10 and set(drawn.examples["id"]) == chosen
    assert len(drawn) == sum(example in chosen for example in asked.features["example_id"])
    rest, held = hold_out(asked, 0.2, seed=0)
    assert len(held.examples) == 7 and len(rest.examples) == 28
    assert not set(rest.examples["id"]) & set(held.examples["id"])


def test_hold_out_parts_in_order(split):
    rest, held = hold_out(split, 0.3, seed=0)
    assert (len(rest), len(held)) == (35, 15)
    whole = list(map(tuple, split.features["input_ids"]))
    for part in (rest, held):
        # each part's rows come in the order of the whole
        remaining = iter(whole)
        assert all(row in remaining for row in map(tuple, part.features["input_ids"]))
    together = [*rest.features["input_ids"], *held.features["input_ids"]]
    assert sorted(map(tuple, together)) == sorted(whole)
    for fraction in (0, 1, 1.5):
        with pytest.raises(InputError, match="between 0 and 1"):
            hold_out(split, fraction, seed=0)


# Batches


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_batches_hold_every_row_padded_on_the_right(split, batch_size, by_length):
    pad = 7
    batches = make_batches(split, batch_size, pad, by_length=by_length)
    seen = []
    for batch in batches:
        assert all(values.dtype == torch.int64 for values in batch.values())
        lengths = batch["attention_mask"].sum(dim=1)
        assert batch["input_ids"].shape[1] == lengths.max()
        for ids, types, length, label in zip(
            batch["input_ids"], batch["token_type_ids"], lengths, batch["labels"], strict=True
        ):
            assert (ids[length:] == pad).all() and (types[length:] == 0).all()
            seen.append((ids[:length].tolist(), int(label)))
    rows = list(zip(split.features["input_ids"], split.features["labels"], strict=True))
    if by_length:
        sizes = [len(ids) for ids, _ in seen]
        assert sizes == sorted(sizes, reverse=True)
        assert sorted(seen) == sorted(rows)
    else:
        assert seen == rows


def test_batch_size_of_nothing(split):
    with pytest.raises(InputError, match="batch_size is 0"):
        make_batches(split, 0, 0)
