"""A compression, for the tests of its tracking."""

import json

import pytest


@pytest.fixture
def compression(tmp_path):
    """Folders of a compression for the stage ``register``, whose manifest names no model."""
    folders = {name: tmp_path / name for name in ("evaluation", "pruned", "report", "released")}
    folders["pruned"].mkdir()
    (folders["pruned"] / "manifest.json").write_text("{}")
    folders["report"].mkdir()
    folders["evaluation"].mkdir()
    (folders["evaluation"] / "served_rows.json").write_text('{"texts": []}')
    metrics = {"pruned": 0.9, "seconds": {"tune": 2}, "curve": {"points": [(0.5, 0.9)]}}
    (folders["report"] / "metrics.json").write_text(json.dumps(metrics))
    return folders
