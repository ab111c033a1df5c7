"""Two users of one folder: artifact root, record of releases and a team's tables, under the umasks that people have."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from other_users import ALICE, BOB, TEAM, as_user, only_root
from tiny_artifacts import numbers
from tiny_tables import make_table

from fastprune.latency.lut import LatencyTable
from fastprune.releases.ledger import Event, events, open_ledger
from fastprune.store import storage

pytestmark = only_root


@pytest.fixture
def place():
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def users(request, place, monkeypatch):
    """A function that runs another one as a user of the team, in a home of the user's own."""
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", str(place / "team"))
    monkeypatch.setenv("FASTPRUNE_LEDGER", str(place / "team" / "releases"))

    def user(function, number):
        home = place / f"home-{number}"
        home.mkdir(exist_ok=True)
        os.chown(home, number, number)
        monkeypatch.chdir(home)
        return as_user(function, number, umask=request.param, groups=[TEAM])

    user.umask = request.param
    return user


def team_folder(place, *, shared):
    folder = place / "team"
    folder.mkdir()
    os.chown(folder, ALICE, TEAM)
    folder.chmod(0o2770 if shared else 0o755)
    return folder


def artifact():
    """How often a stage computed what it was asked for."""
    calls = []
    numbers(Path("out"), calls=calls)
    return len(calls)


def another_artifact():
    numbers(Path("another"), seed=7)
    return True


def promotion():
    """How many events there are when one more was written."""
    ledger = open_ledger("")
    with ledger.lock("m"):
        known = events(ledger, "m")
        after = known[-1].digest if known else ""
        event = Event(
            model="m",
            number=len(known) + 1,
            action="promote",
            by=str(os.getuid()),
            at="now",
            from_version=None,
            to_version="1",
            why="",
            after=after,
        )
        assert ledger.append(event)
    return len(events(ledger, "m"))


def history():
    return len(events(open_ledger(""), "m"))


def table(root="team/tables"):
    """Keep a table, or take the one that is there."""
    store = storage.open_store(Path("..", root))
    store.create("a.json", replace(make_table([1, 2], [1, 2]), device=f"{os.getuid()}").content)
    return LatencyTable.parse(store.read("a.json"), "a.json").device


def another_table():
    return storage.open_store(Path("..", "team/tables")).create("b.json", b"{}")


def test_in_a_folder_of_their_group_both_read_and_write(place, users):
    folder = team_folder(place, shared=True)
    assert (users(artifact, ALICE), users(artifact, BOB)) == (1, 0)
    assert (users(promotion, ALICE), users(promotion, BOB), users(promotion, ALICE)) == (1, 2, 3)
    assert (users(table, ALICE), users(table, BOB)) == (str(ALICE), str(ALICE))
    assert users(another_artifact, BOB) and users(another_table, BOB)
    for path in folder.rglob("*"):
        mode = path.stat().st_mode
        assert path.stat().st_gid == TEAM and mode & 0o070 == (0o070 if path.is_dir() else mode & 0o020 | 0o040), path
        assert not mode & 0o002


def test_in_a_folder_of_the_first_user_the_umask_decides_and_what_may_not_be_is_told(place, users):
    team_folder(place, shared=False)
    assert (users(artifact, ALICE), users(promotion, ALICE), users(table, ALICE)) == (1, 1, str(ALICE))
    if users.umask == 0o022:
        assert (users(artifact, BOB), users(history, BOB)) == (0, 1)
    for refused in [another_artifact, promotion, another_table] + [artifact, history] * (users.umask == 0o077):
        told = users(refused, BOB)
        assert isinstance(told, str) and "Permission denied" in told and "team" in told, refused
    assert not list(place.glob("home-*/another")), "it was told after the work"
    assert (users(promotion, ALICE), users(history, ALICE)) == (2, 2)
