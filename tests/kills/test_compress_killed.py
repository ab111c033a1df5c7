"""``fastprune compress``, killed at random moments: starting again completes it with the same bytes; nothing stays."""

import os
import shutil
import signal

import pytest
from reviews import files_under, table_arguments
from signalling import COUNTS, LONG, STATUS, Command, moments

OUT = "out"


@pytest.fixture(scope="module")
def reference(material, tmp_path_factory):
    """The command, the seconds that it takes, and the files that it writes."""
    folder = tmp_path_factory.mktemp("killed")
    command = Command(
        ["compress", *map(str, [material / "model", *table_arguments(material), "--output-dir", OUT])], folder
    )
    command.run()
    shutil.rmtree(folder / OUT)
    seconds = command.run()
    return command, seconds, taken(folder)


def taken(folder):
    """Take the output away; without what is measured, which differs."""
    files = files_under(folder / OUT)
    shutil.rmtree(folder / OUT)
    return {str(path): content for path, content in files.items() if path.name not in ("metrics.json", "README.md")}


def in_the_writing(command):
    return lambda: any(name.startswith(f".{OUT}-") for name in os.listdir(command.folder))


def kill_and_complete(reference, number, moment, all_of_it, when):
    """Kill it once, check what is there, and complete it.

    Return whether the signal came before the end, and the seconds of the whole command.
    """
    command, _, expected = reference
    came = command.kill(number, moment, all_of_it=all_of_it, when=when)
    if not came or (command.folder / OUT).exists():  # it was done already
        assert taken(command.folder) == expected
    elif number != signal.SIGKILL:
        assert files_under(command.folder).keys() == {command.folder.joinpath("tmp").relative_to(command.folder)}
        said = command.said.read_text()
        assert not said or ("Aborted" in said and "Traceback" not in said)  # nothing: before it could hear
    seconds = command.run()
    assert taken(command.folder) == expected
    assert [path.name for path in command.folder.rglob("*")] == ["tmp"], "something is left"
    return came, seconds


@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
def test_killed(reference, number):
    """One while the result is written, the others in the middle of the work."""
    command, _, _ = reference
    if number == signal.SIGKILL:
        kill_and_complete(reference, number, 0.0, False, in_the_writing(command))
    else:
        has_begun = command.said.stat  # it is emptied before, and bars are the first that is said
        assert kill_and_complete(reference, number, 0.0, number == signal.SIGTERM, lambda: has_begun().st_size > 0)[0]


@pytest.mark.faults
@pytest.mark.parametrize("number", COUNTS, ids=lambda number: number.name)
def test_killed_at_random(reference, number):
    command, seconds, _ = reference
    killed = 0
    for count, (part, all_of_it) in enumerate(moments(number)):
        moment = part * seconds  # of the last whole run: a machine may be busy for a while
        place = (moment / 20, all_of_it, in_the_writing(command)) if count % 2 else (moment, all_of_it, lambda: True)
        came, seconds = kill_and_complete(reference, number, *place)
        killed += came
    assert not LONG or killed >= COUNTS[number] / 3  # of few, none may come in time
    print(f"{number.name}: {COUNTS[number]} sent, {killed} before the end, all completed with the same bytes")
