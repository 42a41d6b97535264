"""What an epoch needs and takes time to make: made by a thread while the epoch before is trained on."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")

Make = Callable[[int, Callable[[], bool]], ValueT | None]
"""(epoch, is_wanted) → value: a function of the epoch alone. It asks ``is_wanted`` now and then; once that says no, it
may give up and return None."""


class MadeAhead(Generic[ValueT]):
    """Values by epoch, of which one is at hand and one more may be in the making.

    Whether a value was made ahead changes when it is there, never what it is.

    Args:
        make: Makes the value of an epoch; called by one thread at a time.
        num_epochs: Values from this epoch on are not made ahead; None: no limit is known.
    """

    def __init__(self, make: Make[ValueT], *, num_epochs: float | None = None) -> None:
        self._make = make
        self._num_epochs = num_epochs
        self._at_hand: tuple[int, ValueT] | None = None
        self._ahead: _Making[ValueT] | None = None

    def get(self, epoch: int) -> ValueT:
        """The value of an epoch (0-based), waited for or made now if it is not at hand.

        Raises:
            Exception: What ``make`` raised.
        """
        if self._at_hand is None or self._at_hand[0] != epoch:
            # The old value goes before the new one comes.
            self._at_hand = None
            self._at_hand = (epoch, self._new(epoch))
        return self._at_hand[1]

    def prepare(self, epoch: int) -> None:
        """Have a thread begin to make the value of an epoch, unless one is at work or no such epoch will come."""
        if self._ahead is None and (self._num_epochs is None or epoch < self._num_epochs):
            self._ahead = _Making(self._make, epoch)
            self._ahead.start(owner=self)

    def _new(self, epoch: int) -> ValueT:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if ahead.epoch == epoch:
                return ahead.result()
            ahead.abandon()
        value = self._make(epoch, lambda: True)
        assert value is not None
        return value


class _Making(Generic[ValueT]):
    """The value of one epoch in the making."""

    def __init__(self, make: Make[ValueT], epoch: int) -> None:
        self.epoch = epoch
        self._make = make
        self._is_abandoned = threading.Event()
        self._value: ValueT | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"make-epoch-{epoch}", daemon=True)
        self._release: weakref.finalize[..., object] | None = None

    def start(self, owner: object) -> None:
        """Begin; the thread ends soon after its owner is gone, and before the process is."""
        self._release = weakref.finalize(owner, self.abandon)
        self._thread.start()

    def result(self) -> ValueT:
        """Wait for the value.

        Raises:
            Exception: What ``make`` raised.
        """
        self._thread.join()
        if self._release is not None:
            self._release.detach()
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value

    def abandon(self) -> None:
        """Have the thread end, and wait for it."""
        self._is_abandoned.set()
        # A collector that runs in the thread itself may be what calls this.
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._value = None

    def _run(self) -> None:
        try:
            self._value = self._make(self.epoch, lambda: not self._is_abandoned.is_set())
        except Exception as error:
            # Raised where the value is asked for, in a thread that can handle it.
            self._error = error
