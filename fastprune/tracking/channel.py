"""From a step to MLflow: within the deadlines, and into the spool once the store has failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastprune.errors import InputError
from fastprune.store.secrets import shown
from fastprune.tracking import deadlines, mlflow_store
from fastprune.tracking.operations import NoSuchRun, family_of, send
from fastprune.tracking.spool import Spool, place

WITHOUT = "going on without tracking"

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


@dataclass
class State:
    """What this process knows of the tracking of a model's run.

    Attributes
    ----------
    spool : Spool or None
        None where it cannot be used.
    away : bool
        The store has failed this run, in this step or in one before: what is told is kept.
    spent : float
        Seconds that the run has waited for a slow store.
    suspect : bool
        The store has failed another run a moment ago.
    """

    spool: Spool | None = None
    away: bool = False
    spent: float = 0.0
    suspect: bool = False


_states: dict[tuple[str, str], State] = {}


def state_of(uri: str, run: str) -> State:
    family = family_of(run)
    if (place(), family) not in _states:
        state = State()
        with _noted():
            spool = Spool.open()
            away, spent, suspect = bool(spool.keys(family)), spool.spent(family), spool.is_suspect(shown(uri))
            state = State(spool, away, spent, suspect)
        _states[place(), family] = state
    return _states[place(), family]


def forget(family: str) -> None:
    """Look again, what is kept of a model's run."""
    _states.pop((place(), family), None)


def give_up(uri: str, run: str, error: BaseException | None) -> None:
    """Ask a store that is away no more for this run."""
    if run and error is not None and mlflow_store.is_away(error):
        state_of(uri, run).away = True


@contextmanager
def _noted() -> Iterator[None]:
    """Warn where the spool cannot be read or written: that never costs a run."""
    try:
        yield
    except (InputError, OSError) as error:
        _log.warning("what MLflow is not told cannot be kept in %s (%s)", shown(place()), shown(error))


def tell(uri: str, operation: dict, limit: float | None = None) -> str | None:
    """Send an operation, or keep it.

    Parameters
    ----------
    uri : str
        Of the store.
    operation : dict
        Of :func:`fastprune.tracking.operations.send`.
    limit : float, optional
        Seconds, if it may take less than others.

    Returns
    -------
    str or None
        MLflow's id of the run; empty if it was kept, and None if it was lost.

    Raises
    ------
    InputError
        The store is a file of this machine that a person must mend.
    """
    operation = operation | {"store": shown(uri)}
    answer = attempt(
        uri, operation["run"], operation["do"], send, uri, operation, vital=operation["do"] == "start", limit=limit
    )
    state = state_of(uri, operation["run"])
    if answer is not None or not state.away or state.spool is None:
        return answer
    with _noted():
        state.spool.write(family_of(operation["run"]), operation)
        return ""
    return None


def attempt(
    uri: str,
    run: str,
    what: str,
    function: Callable[..., Answer],
    *given,
    vital: bool = False,
    limit: float | None = None,
) -> Answer | None:
    """What a function answers within the time that is left to a run; None where it failed, which is warned about.

    A store that is away, or fails at something vital, is not asked again for this run.
    """
    state, store = state_of(uri, run), shown(uri)
    seconds = min(deadlines.operation(), deadlines.run() - state.spent, limit or deadlines.operation())
    if state.away or seconds <= 0:
        state.away = True
        return None
    if state.suspect:
        seconds = min(seconds, deadlines.probe())
    import mlflow.tracking  # noqa: F401  # its seconds are not the store's

    begin = time.monotonic()
    try:
        answer = deadlines.within(seconds, function, *given)
    except InputError:  # a store of this machine that a person must mend
        raise
    except Exception as error:  # whatever a store or a network can raise
        state.suspect = mlflow_store.is_away(error)
        state.away = vital or state.suspect or isinstance(error, NoSuchRun)
        _log.warning(
            "MLflow at %s failed (%s: %s); %s",
            store,
            what,
            mlflow_store.first_line(error),
            f"{WITHOUT}: what it lacks is kept in {shown(place())} for the next run or `fastprune sync`"
            if state.away
            else "the record lacks this",
        )
        if state.suspect:
            _note(state, store)
        return None
    finally:
        if (spent := time.monotonic() - begin) >= deadlines.SLOW:
            state.spent += spent
            with _noted():
                if state.spool:
                    state.spool.spend(family_of(run), spent)
    if state.suspect:
        state.suspect = False
        _note(state, store)
    return answer


def settled(uri: str, run: str) -> None:
    """A model's run has ended: nothing is noted of it any more, unless something is kept."""
    state = state_of(uri, run)
    if state.spool and state.spent and not state.away:
        with _noted():
            state.spool.clear(family_of(run))


def _note(state: State, store: str) -> None:
    with _noted():
        if state.spool:
            state.spool.suspect(store, state.suspect)
