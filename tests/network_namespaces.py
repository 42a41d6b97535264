"""Two machines that are none: network namespaces of Linux with a cable between them.

Each is held by a process that waits for the end of its input, which comes when the tests let go of it, however they
end; with it the kernel takes its namespace away, and the cable too. So nothing is left, and nothing has a name.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from commandline import wait_until

INTERFACE = "cable"
ADDRESSES = ("10.213.47.1", "10.213.47.2")
_TOOLS = ("unshare", "nsenter", "ip")


class TwoMachines:
    """Use it in a ``with`` block; it skips the test where the system does not allow it."""

    def __init__(self) -> None:
        self._holders: list[subprocess.Popen[bytes]] = []

    def enter(self, machine: int) -> list[str]:
        """The words before a command line that is to run on machine 0 or 1."""
        return ["nsenter", f"--net=/proc/{self._holders[machine].pid}/ns/net", "--"]

    def cut(self) -> None:
        """Pull the cable: what is sent is lost, and nobody is told."""
        self._run([*self.enter(0), "ip", "link", "set", INTERFACE, "down"])

    def __enter__(self) -> Self:
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if sys.platform != "linux" or missing:
            pytest.skip(f"no network namespaces: {', '.join(missing) or 'Linux only'} missing")
        try:
            for _ in range(2):
                self._holders.append(subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE))
                self._wait_for_namespace(self._holders[-1])
            first, second = (str(holder.pid) for holder in self._holders)
            cable = ["ip", "link", "add", INTERFACE, "netns", first, "type", "veth", "peer", "name", INTERFACE]
            self._run([*cable, "netns", second])
            for machine, address in enumerate(ADDRESSES):
                ip = [*self.enter(machine), "ip"]
                self._run([*ip, "addr", "add", f"{address}/24", "dev", INTERFACE])
                self._run([*ip, "link", "set", INTERFACE, "up"])
                self._run([*ip, "link", "set", "lo", "up"])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _wait_for_namespace(self, holder: subprocess.Popen[bytes]) -> None:
        ours = Path("/proc/self/ns/net").stat().st_ino

        def is_there() -> bool:
            if holder.poll() is not None:
                pytest.skip("no network namespaces: making one is not permitted here")
            return Path(f"/proc/{holder.pid}/ns/net").stat().st_ino != ours

        wait_until(is_there, "a network namespace")

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no network namespaces: {' '.join(command)}: {done.stderr.strip()}")

    def _end(self) -> None:
        for holder in self._holders:
            assert holder.stdin is not None
            holder.stdin.close()
            holder.wait(30)
