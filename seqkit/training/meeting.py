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
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import FileStore
from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from seqkit.errors import SeqkitError
from seqkit.training.processes import Place

_OVER = "over"
_ASK_EVERY_S = 0.05
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
        timeout_s: How long the first contact may take.
        lost: Asked while waiting whether a process is known to have ended, for what happened, in words.
    """

    def __init__(self, place: Place, *, timeout_s: float, lost: Callable[[], str | None] = lambda: None) -> None:
        self.place = place
        self._lost = lost
        self.store: Store
        if place.store is not None:
            self.store = FileStore(str(place.store), place.size)
        else:
            with _contact():
                handshake = rendezvous(
                    "env://", rank=place.rank, world_size=place.size, timeout=timedelta(seconds=timeout_s)
                )
                store, _, _ = next(handshake)
                # torchrun keeps one store over all its restarts: what an earlier attempt said must not be heard.
                self.store = PrefixStore(f"attempt {place.attempt}", store)

    def tell(self, key: str, value: Any) -> None:
        """Say something, once."""
        with _contact():
            self.store.set(key, json.dumps(value))

    def hear(self, key: str) -> Any:
        """Wait until somebody has said it, however long, unless the training is over before.

        Raises:
            OverError: The leader has ended it.
            OtherProcessError: Another process failed.
        """
        while True:
            with _contact():
                if self.store.check([key]):
                    return json.loads(self.store.get(key))
            self.raise_if_over()
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
        with _contact():
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

    def _say_over(self, told: dict[str, Any]) -> None:
        try:
            # The first to fail is the one that knows why.
            if not self.store.check([_OVER]):
                self.store.set(_OVER, json.dumps(told))
        except RuntimeError:
            # Nobody is left to be told.
            return


@contextmanager
def _contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _lost_contact(error) from error


def _lost_contact(error: RuntimeError) -> OtherProcessError:
    reason = str(error).strip().split("\n")[0]
    return OtherProcessError(f"lost contact with another process ({reason[:200]})", hint=_HINT)


def _is_about_contact(error: RuntimeError) -> bool:
    if isinstance(error, DistError):
        return True
    # Collectives over the CPU's network raise plain errors.
    text = str(error).lower()
    return any(sign in text for sign in ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out"))
