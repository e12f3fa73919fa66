"""A thing is warned of once: `warning.is_news`, by which everyone who warns decides it."""

import threading
import time

from langgraph_kvfork.warning import is_news


def test_a_thing_is_news_once():
    warned: dict[str, object] = {}
    assert is_news(warned, "a")
    assert not is_news(warned, "a")
    assert is_news(warned, "b")
    assert list(warned) == ["a", "b"]


def test_of_several_things_none_may_be_known():
    warned: dict[str, object] = {}
    assert is_news(warned, "run", "node")
    assert not is_news(warned, "run", "another node")
    assert not is_news(warned, "another run", "node")


def test_a_thing_that_is_named_twice_is_news():
    assert is_news({}, "a", "a")


class Slow(str):
    """A name at which another thread comes in."""

    def __hash__(self):
        time.sleep(0.001)
        return super().__hash__()


def test_one_of_many_threads_has_the_news():
    warned: dict[object, object] = {}
    news = []
    begin = threading.Barrier(4)

    def ask():
        begin.wait()
        news.append(is_news(warned, Slow("run"), Slow("node")))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(news) == [False, False, False, True]
