"""The way to the store in which processes meet that ``torchrun``, or whoever sets its variables, has started.

The leader serves it at ``MASTER_ADDR:MASTER_PORT``, unless ``torchrun`` does so already. PyTorch's own way there waits
inside one call, which no signal interrupts, and takes whoever comes for the one that it waits for. Here a process asks
again and again, and says under which number it has come, so that one that is missing, or there twice, is named.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import Store

from seqkit.errors import SeqkitError
from seqkit.training.processes import Place

_ASK_EVERY_S = 0.2
_CONNECT_S = 5.0
"""What one attempt to connect may take."""
_HANDSHAKE_S = 30.0
"""What a store that is there may take to say so."""
_MOST_QUOTED = 200
_IN_USE = "EADDRINUSE"
_ADDRESS_HINT = "is process 0 running? MASTER_ADDR and MASTER_PORT must be its machine and its port in all processes"


def is_served_by_torchrun() -> bool:
    """Whether the store outlives the leader, for the agent that started it serves it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def open_network_store(place: Place, *, timeout_s: float) -> Store:
    """Serve the store, or connect to it as soon as it is there.

    Args:
        place: Which process this is.
        timeout_s: How long to wait for whoever serves it.

    Raises:
        SeqkitError: The port is in use, nobody answers there, or what answers is no such store.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = place.is_leader and not is_served_by_torchrun()
    if not serves:
        _wait_for_server(host, port, timeout_s)
        return _connect(host, port, timeout_s)
    try:
        return _store(host, port, serves=True, timeout_s=timeout_s)
    except RuntimeError as error:
        if _IN_USE not in str(error):
            raise
        raise SeqkitError(
            f"port {port} is in use (MASTER_PORT): another program, or another training, has it",
            hint="give every training a port of its own",
        ) from error


class Lifeline:
    """A connection to whoever serves the store on which nothing is ever said; it breaks when that process ends.

    Asking it costs nothing, where a question to a store that is gone has PyTorch print its stack.
    """

    def __init__(self) -> None:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            self._socket = socket.create_connection(address, timeout=_CONNECT_S)
        except OSError as error:
            raise SeqkitError(
                f"process 0 does not answer any more: {(error.strerror or str(error)).lower()}"
            ) from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def is_cut(self) -> bool:
        """Whether the other end is gone."""
        readable, _, _ = select.select([self._socket], [], [], 0)
        if not readable:
            return False
        try:
            return not self._socket.recv(1)
        except OSError:
            return True


def connect_again(*, timeout_s: float) -> Store:
    """A second connection to the store, for a thread of its own: one connection answers one question at a time.

    Raises:
        SeqkitError: It does not answer.
    """
    return _connect(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout_s)


def _connect(host: str, port: int, timeout_s: float) -> Store:
    """Connect to a store where something listens.

    Raises:
        SeqkitError: It is no store, or does not answer.
    """
    outcome: list[Store | RuntimeError] = []

    def work() -> None:
        try:
            outcome.append(_store(host, port, serves=False, timeout_s=timeout_s))
        except RuntimeError as error:
            outcome.append(error)

    # PyTorch waits without end for one that is mute, and hears no signal meanwhile; a thread may be left behind.
    thread = threading.Thread(target=work, name="connect", daemon=True)
    thread.start()
    thread.join(min(timeout_s, _HANDSHAKE_S))
    found = outcome[0] if outcome else None
    if isinstance(found, Store):
        return found
    reason = "it says nothing" if found is None else str(found).strip().split("\n")[0][:_MOST_QUOTED]
    raise SeqkitError(f"what answers at {host}:{port} is not process 0 of a training ({reason})", hint=_ADDRESS_HINT)


def _store(host: str, port: int, *, serves: bool, timeout_s: float) -> Store:
    store: Store = TCPStore(
        host_name=host,
        port=port,
        is_master=serves,
        wait_for_workers=False,
        timeout=timedelta(seconds=min(timeout_s, _HANDSHAKE_S)),
    )
    store.set_timeout(timedelta(seconds=timeout_s))
    return store


def _wait_for_server(host: str, port: int, timeout_s: float) -> None:
    """Wait until something listens at an address."""
    deadline = time.monotonic() + timeout_s
    while True:
        reason = _fault(host, port)
        if reason is None:
            return
        if time.monotonic() >= deadline:
            raise SeqkitError(
                f"process 0 does not answer at {host}:{port} ({reason}; waited {timeout_s:g} s)",
                hint=_ADDRESS_HINT,
            )
        time.sleep(_ASK_EVERY_S)


def _fault(host: str, port: int) -> str | None:
    """Why an address cannot be connected to now; None if it can."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S) as found:
            # Where nobody listens, a system may pick the very port as this end's, and connect it to itself.
            return "connection refused" if found.getsockname() == found.getpeername() else None
    except OSError as error:
        return (error.strerror or str(error)).lower()
