"""The store that keeps the look-up tables of a team."""

import pytest
from tiny_models import build
from tiny_tables import CPU, profile_twice

from fastprune.errors import InputError
from fastprune.latency import table_store
from fastprune.model.architectures import describe


def test_a_team_profiles_once(tmp_path, monkeypatch):
    profile_twice(str(tmp_path), monkeypatch)
    one, other = tmp_path.rglob("*.json")
    one.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=f"{one.name}: holds the table of .*{other.stem}; remove it"):
        for batch_size in (2, 4):
            table_store.stored_table(str(tmp_path), describe(build()), CPU, batch_size=batch_size, seq_len=8)
