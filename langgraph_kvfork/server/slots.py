"""llama-server: its slots know nothing of one another, so its own endpoints carry the prefix over.

Started with `--slot-save-path`, it can save a slot to a file and restore that into others
(`SavedSlots`): one prefill, and each branch finds it in its slot. All slots of a fan-out are
restored, and then all branches are sent, so that no branch decodes while others wait. But a server
may clear its idle slots when one is launched (with `--kv-unified` it does). There a slot is
restored right before its branch is sent, and the next one only when that branch has been launched;
which it is, is tried once. llama-server compares tokens itself: a slot that holds something else
costs time, and is never wrong.

Without it, the branches of a fan-out can go one after another through one slot (`OneSlot`). That
saves prefills, and costs that they decode alone; which is faster follows from what the server says
of its speeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai

from langgraph_kvfork.server.facts import ServerFacts
from langgraph_kvfork.server.gather import FanOut, Member, Place
from langgraph_kvfork.server.prompt_text import common_tokens
from langgraph_kvfork.server.requests import Requests, ServerRefusedError, body_of

_log = logging.getLogger(__name__)

_FILES = 4
"""Prefixes that are kept, each in a file on the server."""

_LEAST = 128
"""Tokens that are worth a file."""

_POLL = 0.005
"""Seconds from one look at the slots to the next."""

_FAILED = (ServerRefusedError, openai.APIError, KeyError, TypeError, ValueError)
"""What ends sharing, and no branch."""


@dataclass(eq=False)
class Prefix:
    """A prefix that the server has in a file.

    Attributes:
        tokens: Its tokens.
        file: The file's number.
        computed: How many of the tokens the server computed for it.
        prefill_ms: How long it took to compute, in milliseconds.
        first: The number of the call that it was computed for.
        is_of_use: Whether restoring it takes less time than computing it.
    """

    tokens: list[int]
    file: int
    computed: int
    prefill_ms: float
    first: int | None = None
    is_of_use: bool = True


@dataclass(eq=False)
class _Restoring:
    """A fan-out's prefix, and how far it is restored.

    Attributes:
        prefix: The prefix; None: there is none.
        n: How many slots are being restored now.
        none: Set while none is.
    """

    prefix: Prefix | None
    n: int = 0
    none: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Count a slot while the block runs."""
        self.n += 1
        self.none.clear()
        try:
            yield
        finally:
            self.n -= 1
            if not self.n:
                self.none.set()


class SavedSlots:
    """One prefill, restored into as many slots as there are branches.

    Args:
        requests: Sends requests to the server.
        facts: What it is.
    """

    def __init__(self, requests: Requests, facts: ServerFacts) -> None:
        self._requests = requests
        self._n_slots = facts.slots or 1
        self._shows_slots = facts.shows_slots
        self._busy: set[int] = set()
        self._freed = asyncio.Event()
        self._launch = asyncio.Lock()
        self._prefixes: list[Prefix] = []
        self._computing: list[tuple[list[int], asyncio.Event]] = []
        self._asked: deque[list[int]] = deque(maxlen=64)
        self._keeps: bool | None = None

    async def prepare(self, fan_out: FanOut) -> None:
        """Compute what the branches have in common, unless a file has it already."""
        if len(fan_out.members) < 2 and not self._prefixes and not self._computing:
            return
        try:
            prompts = await asyncio.gather(
                *(tokens_of(self._requests, member.payload) for member in fan_out.members)
            )
            for member, tokens in zip(fan_out.members, prompts, strict=True):
                member.tokens = tokens
            # a token is left to each branch: a prompt that is all there would have no logits
            n = min(common_tokens(prompts), min(map(len, prompts)) - 1)
            prefix = await self._prefix(prompts[0][:n], alone=len(prompts) < 2)
            fan_out.state = _Restoring(prefix)
        except _FAILED as error:
            _log.info("A fan-out shares nothing, since its prefix could not be saved: %s", error)

    async def prefill(self, tokens: list[int]) -> tuple[Prefix | None, dict[str, Any]]:
        """Compute a prefix ahead.

        Returns:
            Where it is, None if it could not be saved; and the server's timings.
        """
        known = self._best(tokens)
        if known is not None and common_tokens([known.tokens, tokens]) == len(tokens):
            return known, {"prompt_n": 0, "cache_n": len(tokens), "prompt_ms": 0.0}
        return await self._compute(tokens, known)

    async def _prefix(self, tokens: list[int], *, alone: bool) -> Prefix | None:
        for computing, is_done in list(self._computing):
            if common_tokens([computing, tokens]) >= _LEAST:
                await is_done.wait()
        known = self._best(tokens)
        shared = 0 if known is None else common_tokens([known.tokens, tokens])
        if alone or len(tokens) - shared < _LEAST:
            return known if shared >= _LEAST else None
        prefix, _ = await self._compute(tokens, known)
        return prefix

    def _best(self, tokens: list[int]) -> Prefix | None:
        return max(
            self._prefixes,
            key=lambda prefix: common_tokens([prefix.tokens, tokens]),
            default=None,
        )

    async def _compute(
        self, tokens: list[int], known: Prefix | None
    ) -> tuple[Prefix | None, dict[str, Any]]:
        computing = (tokens, asyncio.Event())
        self._computing.append(computing)
        try:
            return await self._compute_now(tokens, known)
        finally:
            self._computing.remove(computing)
            computing[1].set()

    async def _compute_now(
        self, tokens: list[int], known: Prefix | None
    ) -> tuple[Prefix | None, dict[str, Any]]:
        # a request that is launched may clear this slot before it is saved, so none is meanwhile
        async with self._slot() as slot, self._launch:
            if known is not None and known.is_of_use:
                await self._restore(known, slot)
            body = {"prompt": tokens, "n_predict": 0, "id_slot": slot, "cache_prompt": True}
            answer = await self._requests.post("/completion", body)
            timings: dict[str, Any] = answer["timings"]
            file = self._free_file()
            saved = await self._requests.post(
                f"/slots/{slot}?action=save", {"filename": _name(file)}
            )
            if self._keeps is None and await self._try(slot, tokens):
                timings["prompt_n"] += 1  # of the request that tried it
        if saved["n_saved"] < len(tokens):
            return None, timings
        prefix = Prefix(tokens, file, int(timings["prompt_n"]), float(timings["prompt_ms"]))
        self._prefixes.append(prefix)
        return prefix, timings

    def _free_file(self) -> int:
        if len(self._prefixes) < _FILES:
            used = {prefix.file for prefix in self._prefixes}
            return next(i for i in range(_FILES) if i not in used)
        return self._prefixes.pop(0).file  # the one that was computed the longest ago

    async def _restore(self, prefix: Prefix, slot: int) -> bool:
        """Put a prefix into a slot; return whether it is there."""
        try:
            restored = await self._requests.post(
                f"/slots/{slot}?action=restore", {"filename": _name(prefix.file)}
            )
        except ServerRefusedError as error:
            # no room for another copy, or the file is gone: the branch computes its prompt
            _log.info("A slot was not restored: %s", error)
            return False
        milliseconds = float(restored["timings"]["restore_ms"])
        prefix.is_of_use = milliseconds < max(prefix.prefill_ms, 1.0)
        if restored["n_restored"] != len(prefix.tokens):  # somebody else has written the file
            self._prefixes.remove(prefix)
        return True

    @asynccontextmanager
    async def place(self, fan_out: FanOut, member: Member) -> AsyncIterator[Place]:
        """Send a branch to a slot that has its prefix."""
        place, restoring = Place(), fan_out.state
        prefix = restoring.prefix if isinstance(restoring, _Restoring) else None
        is_known = prefix is not None and prefix in self._prefixes and prefix.is_of_use
        if prefix is None or not is_known or self._goes_on(member.tokens, prefix):
            yield place
            self._remember(member)
            return
        if prefix.first is None:
            prefix.first = place.branch_id
            place.ahead, place.ahead_ms = prefix.computed, prefix.prefill_ms
        else:
            place.parent_id = prefix.first
        async with self._slot() as slot:
            if self._keeps:
                with restoring.one():
                    place.body = await self._restored(prefix, slot)
                await restoring.none.wait()
                yield place
            else:
                async with self._in_turn(prefix, slot, place):
                    yield place
            self._remember(member)

    @asynccontextmanager
    async def _in_turn(self, prefix: Prefix, slot: int, place: Place) -> AsyncIterator[None]:
        """Restore a slot for a branch, and let no other slot be until the branch is launched."""
        async with contextlib.AsyncExitStack() as stack:
            await self._launch.acquire()
            launched = _Released(self._launch)
            stack.callback(launched.release)
            before = await self._task_in(slot)
            place.body = await self._restored(prefix, slot)
            watch = asyncio.create_task(self._release_when_launched(slot, before, launched))
            stack.callback(watch.cancel)
            yield

    async def _restored(self, prefix: Prefix, slot: int) -> dict[str, Any]:
        """Put a prefix into a slot; return what sends a request there, {} if it is not there."""
        with contextlib.suppress(*_FAILED):
            if await self._restore(prefix, slot):
                return {"id_slot": slot, "cache_prompt": True}
        return {}

    async def _try(self, slot: int, tokens: list[int]) -> bool:
        """Find out whether an idle slot keeps its tokens when another one is launched.

        Args:
            slot: One that is ours, and has been computed.
            tokens: What it has.

        Returns:
            Whether a request of one token was sent for it.
        """
        other = await self._idle_slot() if self._shows_slots else None
        if other is None:
            return False
        self._busy.add(other)
        try:
            body = {"prompt": tokens[:1], "n_predict": 0, "id_slot": other, "cache_prompt": False}
            await self._requests.post("/completion", body)
            (has,) = [each for each in await self._slots() if each["id"] == slot]
            self._keeps = int(has["n_prompt_tokens"]) >= len(tokens)
        except _FAILED as error:
            _log.info("Slots are restored one after another: %s", error)
            return False
        finally:
            self._busy.discard(other)
            self._freed.set()
        return True

    def _goes_on(self, tokens: list[int], prefix: Prefix) -> bool:
        """Return whether a prompt goes on with an earlier one, beyond a prefix.

        Then the server has more of it than the prefix, in a slot or in its memory, and finds it.
        """
        most = max((common_tokens([tokens, asked]) for asked in self._asked), default=0)
        return most - len(prefix.tokens) > _LEAST // 2

    def _remember(self, member: Member) -> None:
        if member.tokens:
            self._asked.append(member.tokens)

    async def _release_when_launched(self, slot: int, before: object, launched: _Released) -> None:
        if self._shows_slots:
            while await self._task_in(slot) == before:  # noqa: ASYNC110 - the server sends no event
                await asyncio.sleep(_POLL)
        else:
            await asyncio.sleep(10 * _POLL)
        launched.release()

    async def _task_in(self, slot: int) -> object:
        """Return the number of the request that a slot has, or had last."""
        with contextlib.suppress(*_FAILED):
            for each in await self._slots():
                if each["id"] == slot:
                    return each.get("id_task")
        return None

    async def _slots(self) -> list[dict[str, Any]]:
        if not self._shows_slots:
            return []
        found: list[dict[str, Any]] = await self._requests.get("/slots")
        return found

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[int]:
        """Wait for a slot in which nothing runs, and have it until the block ends."""
        while (slot := await self._idle_slot()) is None:
            self._freed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._freed.wait(), 0.1)
        self._busy.add(slot)
        try:
            yield slot
        finally:
            self._busy.discard(slot)
            self._freed.set()

    async def _idle_slot(self) -> int | None:
        running: set[int] = set()
        with contextlib.suppress(*_FAILED):
            running = {each["id"] for each in await self._slots() if each["is_processing"]}
        free = (i for i in range(self._n_slots) if i not in self._busy and i not in running)
        return next(free, None)

    def note(self, timings: dict[str, Any]) -> None:
        """Nothing here depends on speeds of answers."""


class OneSlot:
    """The branches of a fan-out, one after another where that is faster.

    Args:
        requests: Sends requests to the server.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._prefill_rate = self._decode_rate = 0.0
        self._generated = 0.0

    async def prepare(self, fan_out: FanOut) -> None:
        """Find out how long the prefix is."""
        if len(fan_out.members) > 1:
            with contextlib.suppress(*_FAILED):
                tokens = await tokens_of(self._requests, fan_out.members[0].payload)
                fan_out.state = len(tokens) * len(fan_out.text) // len(fan_out.members[0].text)

    @asynccontextmanager
    async def place(self, fan_out: FanOut, member: Member) -> AsyncIterator[Place]:
        """Let a branch wait for those before it, if that pays."""
        place = Place()
        if not fan_out.state:
            yield place
            return
        await fan_out.turn.acquire()
        turn = _Released(fan_out.turn)
        try:
            if not self._is_faster_alone(fan_out.state, member):
                turn.release()
            if fan_out.first is None:
                fan_out.first = place.branch_id
            else:
                place.parent_id = fan_out.first
            yield place
        finally:
            turn.release()

    def _is_faster_alone(self, n_shared: int, member: Member) -> bool:
        """Return whether decoding alone costs less time than computing the prefix once more.

        Before the server has answered anything, nothing is known, and the first branch shows it.
        """
        if not self._prefill_rate or not self._decode_rate:
            return True
        payload = member.payload
        most = payload.get("max_completion_tokens") or payload.get("max_tokens")
        n_generated = min(most, self._generated) if most else self._generated
        return n_shared / self._prefill_rate > n_generated / self._decode_rate

    def note(self, timings: dict[str, Any]) -> None:
        """Take note of the server's speeds."""
        with contextlib.suppress(KeyError, TypeError):
            if timings["prompt_n"] >= _LEAST:  # of a few tokens, nothing can be said
                self._prefill_rate = float(timings["prompt_per_second"])
            if timings["predicted_n"] > 1:
                self._decode_rate = float(timings["predicted_per_second"])
            n = float(timings["predicted_n"])
            self._generated = n if not self._generated else (3 * self._generated + n) / 4


class _Released:
    """A lock that is held, to be released once."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock: asyncio.Lock | None = lock

    def release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()


async def tokens_of(requests: Requests, payload: dict[str, Any]) -> list[int]:
    """Return the tokens of a chat request's prompt, as llama-server makes them.

    Raises:
        ServerRefusedError: The chat template refuses the messages.
    """
    body = body_of(payload, "stream")
    if not isinstance(body.get("response_format"), dict):  # a class, of which a client makes JSON
        body.pop("response_format", None)
    rendered = await requests.post("/apply-template", body, seconds=60.0)
    content = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
    tokens: list[int] = (await requests.post("/tokenize", content, seconds=60.0))["tokens"]
    return tokens


def _name(file: int) -> str:
    return f"kvfork-prefix-{file}.bin"
