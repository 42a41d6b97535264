"""Where the processes of a training meet before they compute together, and where one says that it cannot go on.

A store of short texts, which PyTorch needs to connect them anyway: a file for the processes of ``--devices``, what
``torchrun`` offers for others. Waiting is done by asking again and again, so that a signal, or another's failure,
ends it. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch._C._distributed_c10d import FileStore
from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from seqkit.errors import SeqkitError
from seqkit.training.leader_watch import News
from seqkit.training.network_store import Lifeline, connect_again, is_served_by_torchrun, open_network_store
from seqkit.training.processes import Place
from seqkit.training.pulses import Pulses

_OVER = "over"
_ASK_EVERY_S = 0.05
GONE_HINT = "what it said last tells why"
_HINT = "all processes of this training have been stopped"


class OtherProcessError(SeqkitError):
    """Another process of this training failed, ended or does not answer."""


class OverError(Exception):
    """The leader has ended the training, and said itself what there is to say.

    Args:
        exit_code: What it exits with.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the leader ended with exit code {exit_code}")
        self.exit_code = exit_code


class Meeting:
    """A store of JSON values that all processes of a training read and write.

    Args:
        place: Which process this is.
        timeout_s: How long the first contact, and later a process's next sign of life, may take.
        lost: Asked while waiting whether a process is known to have ended, for what happened, in words.
    """

    def __init__(self, place: Place, *, timeout_s: float, lost: Callable[[], str | None] = lambda: None) -> None:
        self.place = place
        self._lost = lost
        self._lifeline: Lifeline | None = None
        self._timeout_s = timeout_s
        self.store: Store
        if place.store is not None:
            self.store = FileStore(str(place.store), place.size)
        else:
            with self._contact():
                self.store = _of_attempt(place, open_network_store(place, timeout_s=timeout_s))
            if not place.is_leader and not is_served_by_torchrun():
                self._lifeline = Lifeline()
            self._arrive()

    def _arrive(self) -> None:
        """Say that this process has come; of the leader: wait until all have.

        Who comes second under a number goes, and tells nobody: the others have one that does what the leader says.

        Raises:
            OtherProcessError: One does not come, or has failed, or another has come under this one's number.
        """
        place = self.place
        with self._contact():
            num_alike = self.store.add(_arrived(place.rank), 1)
        if num_alike > 1:
            raise OtherProcessError(
                f"another process has come as process {place.rank} of {place.size} already",
                hint="give every training a MASTER_PORT of its own, and every process of one a RANK of its own",
            )
        deadline = time.monotonic() + self._timeout_s
        for rank in range(1, place.size) if place.is_leader else ():
            while True:
                with self._contact():
                    if self.store.check([_arrived(rank)]):
                        break
                self.raise_if_over()
                if time.monotonic() >= deadline:
                    raise OtherProcessError(
                        f"process {rank} of {place.size} has not come; waited {self._timeout_s:g} s",
                        hint="is it running? MASTER_ADDR and MASTER_PORT must be the same in all processes",
                    )
                time.sleep(_ASK_EVERY_S)

    def news_of_leader(self) -> Callable[[], News | None]:
        """A question to the leader, to be asked again and again in a thread of its own: whether the training is over.

        It is answered with what there is to say, or None while the training goes on; and it is a sign of life. Of
        followers that ``torchrun`` or a scheduler has started.
        """
        with self._contact():
            store = _of_attempt(self.place, connect_again(timeout_s=self._timeout_s))

        def ask() -> News | None:
            if self._is_alone():
                return News(self._gone, 1)
            try:
                store.add(_pulse(self.place.rank), 1)
                if not store.check([_OVER]):
                    return None
                told = json.loads(store.get(_OVER))
            except RuntimeError:
                # torchrun sees to its processes itself, with or without a store.
                return None if is_served_by_torchrun() else News(self._gone, 1)
            return None if told["rank"] == self.place.rank else News(None, told["exit_code"])

        return ask

    def tell(self, key: str, value: Any) -> None:
        """Say something, once."""
        with self._contact():
            self.store.set(key, json.dumps(value))

    def hear(self, key: str) -> Any:
        """Wait until somebody has said it, however long, unless the training is over before.

        Raises:
            OverError: The leader has ended it.
            OtherProcessError: Another process failed.
        """
        pulses = self._pulses()
        while True:
            with self._contact():
                if self.store.check([key]):
                    return json.loads(self.store.get(key))
                silent = pulses.silent()
            self.raise_if_over()
            if silent is not None:
                raise OtherProcessError(
                    f"process {silent} of {self.place.size} has not answered for {self._timeout_s:g} s", hint=_HINT
                )
            time.sleep(_ASK_EVERY_S)

    def end(self, exit_code: int) -> None:
        """Tell all others that there is nothing (more) to do; by the leader."""
        self._say_over({"rank": self.place.rank, "exit_code": exit_code})

    def fail(self, error: SeqkitError) -> None:
        """Tell all others why this process cannot go on."""
        told = {"rank": self.place.rank, "exit_code": error.exit_code, "message": error.message, "hint": error.hint}
        self._say_over(told)

    def raise_if_over(self) -> None:
        """Raise if a process has told that it is over, or is known to have ended.

        Raises:
            OverError: The leader has ended it.
            OtherProcessError: Another process failed.
        """
        with self._contact():
            told = json.loads(self.store.get(_OVER)) if self.store.check([_OVER]) else None
        if told is not None and told["rank"] != self.place.rank:
            if told["rank"] == 0:
                raise OverError(told["exit_code"])
            error = OtherProcessError(f"process {told['rank']} of {self.place.size}: {told['message']}")
            error.exit_code, error.hint = told["exit_code"], told["hint"] or _HINT
            raise error
        lost = self._lost()
        if lost is not None:
            raise OtherProcessError(lost, hint=_HINT)

    def explain(self, error: RuntimeError, *, patience_s: float = 3.0) -> None:
        """Find out whether an error of PyTorch's is another process's fault.

        Args:
            error: What was raised.
            patience_s: How long to wait for the other's own words, or for the news of its end.

        Raises:
            OverError: The leader has ended it.
            OtherProcessError: It is; otherwise the caller goes on with the error itself.
        """
        if not _is_about_contact(error):
            self.raise_if_over()
            return
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            self.raise_if_over()
            time.sleep(_ASK_EVERY_S)
        raise _lost_contact(error) from error

    def _pulses(self) -> Pulses:
        """Of the leader: those of all followers; of processes that ``--devices`` started, others know better."""
        is_watching = self.place.is_leader and self.place.store is None
        ranks = range(1, self.place.size) if is_watching else ()
        return Pulses(lambda rank: self.store.add(_pulse(rank), 0), ranks, timeout_s=self._timeout_s)

    @property
    def _gone(self) -> str:
        return f"process 0 of {self.place.size} is gone"

    def _is_alone(self) -> bool:
        """Whether the leader's process is known to have ended, with all that it has told."""
        return self._lifeline is not None and self._lifeline.is_cut()

    @contextmanager
    def _contact(self) -> Iterator[None]:
        """Inside, the store may be asked: what goes wrong then is another process's fault.

        Raises:
            OtherProcessError: It is.
        """
        if self._is_alone():
            raise OtherProcessError(self._gone, hint=GONE_HINT)
        try:
            yield
        except RuntimeError as error:
            raise _lost_contact(error) from error

    def _say_over(self, told: dict[str, Any]) -> None:
        if self._is_alone():
            return
        try:
            # The first to fail is the one that knows why.
            if not self.store.check([_OVER]):
                self.store.set(_OVER, json.dumps(told))
        except RuntimeError:
            # Nobody is left to be told.
            return


def _of_attempt(place: Place, store: Store) -> Store:
    # torchrun keeps one store over all its restarts: what an earlier attempt said must not be heard.
    return PrefixStore(f"attempt {place.attempt}", store)


def _pulse(rank: int) -> str:
    return f"pulse {rank}"


def _arrived(rank: int) -> str:
    return f"arrived {rank}"


def _lost_contact(error: RuntimeError) -> OtherProcessError:
    reason = str(error).strip().split("\n")[0]
    return OtherProcessError(f"lost contact with another process ({reason[:200]})", hint=_HINT)


def _is_about_contact(error: RuntimeError) -> bool:
    if isinstance(error, DistError):
        return True
    # Collectives over the CPU's network raise plain errors.
    text = str(error).lower()
    return any(sign in text for sign in ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out"))
