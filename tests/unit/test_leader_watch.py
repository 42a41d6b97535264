"""The thread that ends a follower whose leader is gone: when it speaks, and when it must not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from seqkit.training.leader_watch import LeaderWatch, News

OVER = News(None, 3)


class Ended:
    """Takes down what the watch says."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self._has_news = threading.Event()

    def __call__(self, news: News) -> None:
        self.news.append(news)
        self._has_news.set()

    def wait(self) -> None:
        assert self._has_news.wait(30)


def watch(
    ask: Callable[[], News | None], on_end: Ended, *, grace_s: float = 0.0, timeout_s: float = 60.0
) -> LeaderWatch:
    return LeaderWatch(ask, on_end, grace_s=grace_s, timeout_s=timeout_s, every_s=0.02)


def test_it_tells_what_it_heard_once() -> None:
    answers = iter([None, None, OVER])
    ended = Ended()
    with watch(lambda: next(answers), ended):
        ended.wait()
        time.sleep(0.1)
    assert ended.news == [OVER]


def test_while_the_leader_answers_nothing_happens() -> None:
    questions: list[None] = []
    ended = Ended()
    with watch(lambda: questions.append(None), ended, timeout_s=0.2):
        deadline = time.monotonic() + 30
        while len(questions) < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(questions) >= 40 and ended.news == []


def test_a_leader_that_has_fallen_silent() -> None:
    answer = threading.Event()
    ended = Ended()

    def ask() -> News | None:
        answer.wait()
        return None

    with watch(ask, ended, timeout_s=0.2):
        ended.wait()
        answer.set()
    assert ended.news == [News("process 0 has not answered for 0.2 s", 1)]


def test_the_main_thread_has_its_time() -> None:
    ended = Ended()
    with watch(lambda: OVER, ended, grace_s=60.0):
        time.sleep(0.2)
    assert ended.news == []


def test_what_the_main_thread_has_heard_is_not_asked_again() -> None:
    questions: list[None] = []
    ended = Ended()
    with watch(lambda: questions.append(None), ended, grace_s=0.1) as one:
        one.note_end(OVER)
        num_before = len(questions)
        ended.wait()
    # One may have been under way.
    assert ended.news == [OVER] and len(questions) <= num_before + 1
