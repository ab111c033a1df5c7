import os
import sys

import click
import numpy as np
import pandas
import pytest

from fastprune.pipelines import demo


def reviews(films=50, rows=400):
    draw = np.random.default_rng(0)
    names = [f"film {number}" for number in draw.integers(films, size=rows)]
    return pandas.DataFrame({"movie_name": names, "text": [f"review {row}" for row in range(rows)]})


def test_no_film_is_in_both_parts_and_the_seed_decides():
    rows = reviews()
    train, test = demo.split_by_film(rows, 0.2, seed=0)
    assert not set(train["movie_name"]) & set(test["movie_name"])
    assert sorted([*train.index, *test.index]) == list(rows.index)
    assert test["movie_name"].nunique() == round(0.2 * rows["movie_name"].nunique())
    again = demo.split_by_film(rows.sample(frac=1, random_state=5), 0.2, seed=0)[1]
    assert set(again["movie_name"]) == set(test["movie_name"])
    assert set(demo.split_by_film(rows, 0.2, seed=1)[1]["movie_name"]) != set(test["movie_name"])


def test_batches_hold_every_row_once_at_like_lengths():
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 128, size=1000)
    batches = demo.batches_of_like_length([[0] * length for length in lengths], 32, np.random.default_rng(1))
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert max(len(batch) for batch in batches) == 32
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 20


def test_files_of_a_package_are_found_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "carrier" / "data").mkdir(parents=True)
    (tmp_path / "carrier" / "__init__.py").write_text("raise ImportError('its dependencies are not installed')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert demo.packaged("carrier", "data/rows.csv") == tmp_path / "carrier" / "data" / "rows.csv"
    assert "carrier" not in sys.modules
    with pytest.raises(click.ClickException, match="make demo"):
        demo.packaged("nobody_has_this", "rows.csv")


def test_how_to_open_the_store():
    assert demo.how_to_open("http://127.0.0.1:5000", "mlflow") == "open http://127.0.0.1:5000"
    assert "mlflow ui --backend-store-uri sqlite:////a/mlflow.db" in demo.how_to_open(
        "sqlite:////a/mlflow.db", os.path.join(".venv", "mlflow")
    )
