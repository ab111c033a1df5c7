"""Two promotions at once, again and again: one wins, the other is told. ``FASTPRUNE_RACES`` says how often."""

import json
import multiprocessing
import os
import time
from itertools import pairwise

import pytest
from faults import LONG
from tiny_releases import LENIENT, variant

from fastprune.releases import promotion, registration
from fastprune.tracking import mlflow_store
from tests.servers import BUCKET

RACES = int(os.environ.get("FASTPRUNE_RACES", "30" if LONG else "10"))
NAME = "raced"

PATIENCE = 900
"""Seconds for what takes a few on an idle machine: many races go on beside whatever else it does."""


def racer(uri, number, barrier, lanes, told):
    """Promote what the lane says, at the same moment as the other racer, until the lane closes."""
    mlflow_store.connect(uri).get_registered_model(NAME)  # everything is imported before the first race
    while True:
        barrier.wait()
        champion, version = lanes[number].recv()
        if version is None:
            return
        barrier.wait()
        try:
            promotion.promote(uri, NAME, version, LENIENT, why=f"racer {number}", expected=champion)
            told[number].send("won")
        except promotion.ChampionMoved:
            told[number].send("moved")
        except Exception as error:  # the parent must not wait for ever
            told[number].send(repr(error))


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "s3"])
def test_of_two_promotions_at_once_one_wins(kind, request, folders, tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "FASTPRUNE_LEDGER", "FASTPRUNE_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)  # PostgreSQL's default artifact folder is ./mlruns
    uri = request.getfixturevalue("own_database") if kind == "postgresql" else f"sqlite:///{tmp_path}/mlflow.db"
    if kind == "s3":  # the record alone: no lock holds anybody off
        request.getfixturevalue("s3")
        monkeypatch.setenv("FASTPRUNE_LEDGER", f"s3://{BUCKET}/releases")
    for note in ("one", "two", "three"):
        folder = variant(folders, tmp_path / note, note)
        registration.register(uri, folder, NAME, json.loads((folder / "metrics.json").read_text()))
    promotion.promote(uri, NAME, "1", LENIENT, why="the first")

    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    pipes = [[context.Pipe() for _ in range(2)] for _ in range(2)]
    told = [end[0] for end in pipes[1]]
    send = [end[1] for end in pipes[0]]
    racers = [
        context.Process(
            target=racer,
            daemon=True,
            args=(uri, number, barrier, [end[0] for end in pipes[0]], [end[1] for end in pipes[1]]),
        )
        for number in range(2)
    ]
    for process in racers:
        process.start()
    champion, begin = "1", time.monotonic()
    for race in range(1, RACES + 1):
        rivals = [version for version in "123" if version != champion]
        barrier.wait(PATIENCE)
        for lane, version in zip(send, rivals):
            lane.send((champion, version))
        barrier.wait(PATIENCE)
        outcomes = [lane.recv() for lane in told]
        assert sorted(outcomes) == ["moved", "won"]
        champion = rivals[outcomes.index("won")]
        if race % 50 == 0 or race == RACES:
            print(f"{kind}: {race} races in {time.monotonic() - begin:.0f} s", flush=True)
    barrier.wait(PATIENCE)
    for lane in send:
        lane.send((None, None))
    for process in racers:
        process.join(PATIENCE)

    events = promotion.history(uri, NAME)
    assert [event.number for event in events] == list(range(1, RACES + 2))
    assert all(before.to_version == after.from_version for before, after in pairwise(events))
    client = mlflow_store.connect(uri)
    assert str(client.get_model_version_by_alias(NAME, "champion").version) == champion == events[-1].to_version
    assert str(client.get_model_version_by_alias(NAME, "previous").version) == events[-1].from_version
