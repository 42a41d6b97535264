"""Ports of this machine that no other test is given, nor the system gives to whoever asks for any."""

from __future__ import annotations

import itertools
import os
import socket
import sys

_FIRST, _LAST = 20_000, 30_000
"""Below what systems hand out by themselves (Linux from 32,768, others from 49,152)."""

# Two runs of the tests begin at different places; that they do not meet is seen to below.
_candidates = itertools.cycle(range(_FIRST, _LAST))
for _ in range(os.getpid() * 37 % (_LAST - _FIRST)):
    next(_candidates)


def reserve_port() -> int:
    """A port on which one program at a time may listen, never handed out twice while this process lives.

    This process stays bound to it without listening. Who asks to reuse an address, as servers do, may then listen on
    it; another call of this function, here or in another process, does not ask and goes on to the next.
    """
    for port in itertools.islice(_candidates, _LAST - _FIRST):
        reserved = socket.socket()
        try:
            reserved.bind(("", port))
        except OSError:
            reserved.close()
            continue
        if sys.platform != "linux":
            # Elsewhere nobody else could have it.
            reserved.close()
            return port
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Open until this process ends.
        reserved.detach()
        return port
    raise AssertionError(f"no free port from {_FIRST} to {_LAST}")
