"""Warns of parallel branches that compute the same text because of the order of messages.

Each call's prompt is compared with those of the calls that run beside it in the same run of a
graph, as text, which takes less than a millisecond. If two have a long piece in common, but behind
something that differs, the message to move is named, once per graph. Nothing is changed.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import ensure_config

from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.hooks.place import graph_runtime, node_path
from langgraph_kvfork.warning import is_news, warn

_LEAST = 1000
"""Characters in common that are worth a warning."""

_PROBE = 200
"""Characters of one prompt that are looked for in another: enough to be there once."""

_CHARACTERS = 4
"""Characters of a token, as they are in English: an estimate."""

_MOST_COMPARED = 8
"""Branches that one is compared with."""


class MessageOrderWarning(UserWarning):
    """Parallel branches have most of their text in common, but what differs comes before it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A call that runs; forgotten when it ends.

    Attributes:
        engine: Who computes it: an engine, or whatever stands for a server.
        run: What all calls of a graph's run have in common; None outside, and with releases of
            LangGraph that have nothing of the kind.
        namespace: With whom it shares prefixes.
        node: The graph's node; "" outside.
        messages: The prompt, as messages.
        prompt: The prompt.
    """

    engine: object
    run: object | None
    namespace: str | None
    node: str
    messages: Sequence[BaseMessage]
    prompt: str

    def may_share_with(self, other: _Call) -> bool:
        return (
            self.engine is other.engine
            and self.run is other.run
            and self.namespace == other.namespace
        )


@dataclass(frozen=True, slots=True)
class _Duplicate:
    """What is computed twice, and why.

    Attributes:
        call: Whose message it is.
        message: The message to move.
        is_part: Whether only its beginning is to move: the rest is in common.
        text: What is in common behind it.
    """

    call: _Call
    message: BaseMessage
    is_part: bool
    text: str


# Each step is one operation of a dict. There is no lock: a stream that is collected ends its call
# wherever that happens, also within another call's step, and would wait for itself.
_running: dict[_Call, None] = {}
_warned: dict[object, object] = {}
"""Nodes and runs whose graph was warned of, and a mark of who did it."""


@contextlib.contextmanager
def watched_order(
    engine: object,
    messages: Sequence[BaseMessage],
    prompt: str,
    *,
    shared: bool,
    namespace: str | None,
) -> Iterator[None]:
    """Compare a prompt with those of the calls beside which it runs, until the block ends.

    Calls of a graph's run that run at the same time are branches of one superstep. If they have
    most of their text in common, but behind something that differs, there is a
    `MessageOrderWarning`: one per graph, and one for all calls outside of graphs.

    Args:
        engine: Who computes it: an engine, or whatever stands for a server.
        messages: The prompt, as messages.
        prompt: The prompt.
        shared: Whether the call takes part in sharing at all.
        namespace: With whom it shares; None: with all calls that name none.
    """
    if not shared or len(prompt) < _LEAST:
        yield
        return
    run = getattr(graph_runtime(), "control", None)
    node = node_path(ensure_config().get("metadata", {}))
    call = _Call(engine, run, namespace, node, messages, prompt)
    siblings = [c for c in list(_running) if c.may_share_with(call)]
    _running[call] = None
    try:
        if call.node not in _warned:
            _compare(call, siblings[-_MOST_COMPARED:])
        yield
    finally:
        del _running[call]


def _compare(call: _Call, siblings: Sequence[_Call]) -> None:
    for sibling in siblings:
        duplicate = _duplicate_of(call, sibling)
        if duplicate is not None:
            if _is_news(call, sibling):
                warn(_sentences(duplicate), MessageOrderWarning)
            return


def _is_news(*calls: _Call) -> bool:
    """Return whether nobody was warned of this graph before, and remember that somebody was."""
    runs = dict.fromkeys(call.run for call in calls if call.run is not None)
    return is_news(_warned, *runs, *sorted({call.node for call in calls}))


def _sentences(duplicate: _Duplicate) -> str:
    call, engine = duplicate.call, duplicate.call.engine
    if isinstance(engine, Engine):
        tokens = f"{len(engine.tokenize(duplicate.text, add_special=False)):,} tokens"
    else:  # a server would have to be asked
        tokens = f"about {len(duplicate.text) // _CHARACTERS:,} tokens"
    who = f"Node {call.node!r}" if call.node else "A call outside of a graph"
    begins = textwrap.shorten(str(duplicate.message.text)[:200], 60, placeholder=" ...")
    part = "the beginning of " if duplicate.is_part else ""
    return (
        f"{who} prefills {tokens} that a branch beside it prefills too, since what "
        f"differs comes before them: {part}the {duplicate.message.type} message {begins!r}. "
        "Move it behind what the branches have in common, and they share that: "
        "langgraph_kvfork.arrange(context, role, question) makes such messages, and for agents "
        "SharedPrefix does it."
    )


def _duplicate_of(call: _Call, sibling: _Call) -> _Duplicate | None:
    """Return what one of two calls has to move to share most of its prompt; None if nothing."""
    differ = common_prefix(call.prompt, sibling.prompt)
    a, b = call.prompt[differ:], sibling.prompt[differ:]
    block = _common_block(a, b, max(_LEAST, min(len(call.prompt), len(sibling.prompt)) // 2))
    if block is None:
        return None
    i, j, length = block
    for who, begin in ((call, differ + i), (sibling, differ + j)):
        at = 0
        for message in who.messages:
            text = str(message.text).strip()
            found = who.prompt.find(text, at)
            if found < 0:
                continue  # the template says it otherwise
            at = found + len(text)
            if at > differ:
                if found < begin:
                    is_part = at - begin > length // 2
                    return _Duplicate(who, message, is_part, who.prompt[begin : begin + length])
                break  # what differs is no message: tools, or another role
    return None


def _common_block(a: str, b: str, least: int) -> tuple[int, int, int] | None:
    """Return where in `a` and in `b` a text of at least so many characters is, and its length."""
    if min(len(a), len(b)) < least:
        return None
    # a text that is long enough holds one of the probes
    for at in range(0, len(a) - _PROBE + 1, least - _PROBE):
        found = b.find(a[at : at + _PROBE])
        if found >= 0:
            before = common_prefix(a[:at][::-1], b[:found][::-1])
            length = before + common_prefix(a[at:], b[found:])
            if length >= least:
                return at - before, found - before, length
    return None


def common_prefix(a: str, b: str) -> int:
    """Return how many characters two texts begin with in common; fast, unlike a loop over them."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
