"""A column of class labels is read as a whole, by one rule."""

from types import SimpleNamespace

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from fastprune.data.labels import class_names, read_classes
from fastprune.errors import InputError


def config(names=None, label2id=None, num_labels=None):
    count = num_labels or len(names)
    return SimpleNamespace(num_labels=count, id2label=dict(enumerate(names)) if names else None, label2id=label2id)


def read(values, *given, **options):
    return read_classes(Dataset.from_dict({"label": values}), "label", config(*given, **options)).to_pylist()


@pytest.mark.parametrize("label2id", [None, {}, {"LABEL_0": 0, "LABEL_1": 1}, {"neg": 0, "pos": 1}])
def test_names_are_those_of_id2label(label2id):
    assert class_names(config(["neg", "pos"], label2id)) == ["neg", "pos"]
    assert read(["pos", "neg", "POS", "LABEL_0"], ["neg", "pos"], label2id) == [1, 0, 1, 0]


def test_names_of_label2id_where_id2label_has_none():
    assert class_names(config(["LABEL_0", "LABEL_1"], {"neg": 0, "pos": 1})) == ["neg", "pos"]
    assert class_names(config(num_labels=2)) == ["LABEL_0", "LABEL_1"]


def test_two_dictionaries_that_disagree_are_refused_with_both_sides():
    with pytest.raises(InputError, match="class 4 'e' in id2label and 'd' in label2id"):
        class_names(config("abcde", {"a": 0, "b": 1, "c": 2, "d": 4, "e": 3}))
    with pytest.raises(InputError, match="'a' to two classes"):
        class_names(config(["a", "a"]))


@pytest.mark.parametrize(
    "values", [[0, 1], ["0", "1"], [0.0, 1.0], ["0.0", "1.0"], [False, True], ["LABEL_0", "label_1"], ["neg", "Pos"]]
)
def test_every_kind_of_column(values):
    assert read(values, ["neg", "pos"]) == [0, 1]


def test_names_that_are_numbers():
    stars = ["1", "2", "3", "4", "5"]
    assert read(stars, stars) == [0, 1, 2, 3, 4]
    assert read(["1", "4"], stars) == [0, 3], "texts are names"
    assert read([1, 5], stars) == [0, 4], "5 is no number of a class"
    assert read([0, 1], ["0", "1"]) == [0, 1], "both readings agree"
    assert read(["1", "0"], ["1", "0"]) == [0, 1]
    for values in ([1, 4], [1.0, 4.0]):
        with pytest.raises(
            InputError, match="read in two ways: 1.* of row 1 is the name of class 0 and the number of class 1"
        ):
            read(values, stars)


@pytest.mark.parametrize(
    "values, message",
    [
        (["neg", "1"], "row 2 has the label '1' .* row 1 has a name, 'neg', and a column holds names or numbers"),
        (["0", "pos"], "row 2 has the label 'pos' .* row 1 has a class number"),
        (["neg", "maybe"], "row 2 has the label 'maybe' .* named \\['neg', 'pos'\\]"),
        (["neg", None], "row 2 has no label"),
        ([0, 2], "row 2 has the label 2 .* classes are 0 to 1"),
        ([0.5, 1.0], "row 1 has the label 0.5"),
        ([float("nan"), 1.0], "row 1 has the label nan"),
    ],
)
def test_no_column_is_read_value_by_value(values, message):
    with pytest.raises(InputError, match=message):
        read(values, ["neg", "pos"])


def test_a_name_that_differs_from_another_by_case_alone():
    assert read(["yes", "YES"], ["yes", "YES"]) == [0, 1]
    with pytest.raises(InputError, match="row 1 has the label 'Yes'"):
        read(["Yes"], ["yes", "YES"])


def test_a_table_that_numbers_the_names_otherwise():
    features = Features({"label": ClassLabel(names=["pos", "neg"]), "text": Value("string")})
    table = Dataset.from_dict({"label": [0, 1], "text": ["a", "b"]}, features=features)
    assert read_classes(table, "label", config(["neg", "pos"])).to_pylist() == [1, 0]


@settings(deadline=None, max_examples=60)
@given(
    names=st.lists(st.text(min_size=1, max_size=5).filter(str.strip), min_size=2, max_size=5, unique_by=str.casefold),
    numbers=st.lists(st.integers(0, 4), min_size=1, max_size=8),
)
def test_names_and_numbers_lead_to_the_same_classes(names, numbers):
    numbers = [number % len(names) for number in numbers]
    if any(name.casefold().startswith("label_") for name in names):
        return
    assert read([names[number] for number in numbers], names) == numbers
    if not any(name.strip().lstrip("+-").replace(".", "").isdigit() for name in names):
        for kind in (int, float, str):
            assert read([kind(number) for number in numbers], names) == numbers
