"""Ctrl-C comes between any two steps of Python: it leaves no lock locked, no call under way."""

import random
import signal
import threading

import pytest

from langgraph_kvfork.engine import ending
from langgraph_kvfork.engine.ending import native_work
from langgraph_kvfork.engine.lifetime import Lifetime

N_INTERRUPTS = 3000


@pytest.fixture
def interrupted():
    """Runs work again and again, and interrupts it a few microseconds later."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    def run(work):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-6, 60e-6))
            while True:
                work()
        except KeyboardInterrupt:
            pass

    before = signal.signal(signal.SIGALRM, interrupt)
    yield run
    signal.signal(signal.SIGALRM, before)


def is_free(lock):
    """Return whether another thread gets it."""
    got = []

    def take():
        got.append(lock.acquire(blocking=False))
        if got[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return got == [True]


def test_a_call_ends_and_its_engine_can_be_closed(interrupted):
    freed = []
    lifetime = Lifetime("a model", lambda: False, lambda: freed.append(lifetime.wait_for_calls()))

    def call():
        with lifetime.call():
            pass

    for _ in range(N_INTERRUPTS):
        interrupted(call)
        assert not lifetime._calls
    assert is_free(lifetime._lock)
    lifetime.close()
    assert freed == [None]


def test_the_mark_of_a_thread_in_the_library_locks_out_nobody(interrupted):
    def work():
        with native_work:
            pass

    for _ in range(N_INTERRUPTS):
        interrupted(work)
        assert not ending._lock._is_owned()
    assert is_free(ending._lock)
