"""Signs of life of followers: who stands still for too long is named, and time that nobody lived through is none."""

from __future__ import annotations

from seqkit.training.pulses import Pulses


class World:
    """Processes that count, and a clock, all moved by hand."""

    def __init__(self) -> None:
        self.counts = {1: 0, 2: 0}
        self.now = 100.0
        self.num_asked = 0

    def count(self, rank: int) -> int:
        self.num_asked += 1
        return self.counts[rank]

    def pulses(self, timeout_s: float) -> Pulses:
        return Pulses(self.count, self.counts, timeout_s=timeout_s, clock=lambda: self.now)


def test_who_stands_still_is_named_in_time() -> None:
    world = World()
    pulses = world.pulses(5.0)
    for _ in range(20):
        world.now += 1
        world.counts[1] += 1
        world.counts[2] += 3
        assert pulses.silent() is None
    told = []
    for _ in range(8):
        world.now += 1
        world.counts[1] += 1
        told.append(pulses.silent())
    assert told == [None] * 5 + [2] * 3


def test_it_looks_once_a_second_however_often_it_is_asked() -> None:
    world = World()
    pulses = world.pulses(5.0)
    for _ in range(100):
        world.now += 0.05
        pulses.silent()
    assert 4 <= world.num_asked / 2 <= 5


def test_time_in_which_all_were_stopped_does_not_count() -> None:
    world = World()
    pulses = world.pulses(5.0)
    world.now += 1
    assert pulses.silent() is None
    world.now += 10_000
    assert pulses.silent() is None
    world.counts = {1: 1, 2: 1}
    world.now += 1
    assert pulses.silent() is None
