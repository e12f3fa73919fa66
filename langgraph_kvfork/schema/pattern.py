"""Patterns of schemas, in JavaScript's language of regular expressions, as automata.

A pattern is read into parts, these become a nondeterministic automaton, and that the deterministic
one of all strings in which the pattern is found. Where engines of regular expressions differ (what
is a space, a dot, a digit), the automaton takes only the strings that all of them take, so that
any engine that checks the answer agrees.

Lookaheads are held at the beginning of a pattern only. Backreferences, lookbehinds and flags are
not: such a pattern is an `UnheldPatternError`, and left to the check of the answer.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import lru_cache
from itertools import pairwise
from typing import Any

from langgraph_kvfork.schema.automaton import (
    ANY,
    Automaton,
    Ranges,
    TooLargeError,
    both,
    combined,
    either,
    explored,
    others,
)

_DIGIT: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = (
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
)
# what is a space to some engines only is none of \s and none of \S
_NO_SPACE = others(either(_SPACE, ((0x1C, 0x1F), (0x85, 0x85), (0x180E, 0x180E))))
_DOT = others(((0x0A, 0x0A), (0x0D, 0x0D), (0x85, 0x85), (0x2028, 0x2029)))
_CLASSES = {
    "d": _DIGIT,
    "D": others(_DIGIT),
    "w": _WORD,
    "W": others(_WORD),
    "s": _SPACE,
    "S": _NO_SPACE,
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_CATEGORIES = {"Letter": "L", "Lowercase_Letter": "Ll", "Uppercase_Letter": "Lu", "Number": "N"}
_MAX_NODES = 20_000

# A part of a pattern: ("set", ranges), ("cat", parts), ("alt", parts), ("rep", part, low, high),
# ("start",), ("end",)
_Part = tuple[Any, ...]


class UnheldPatternError(Exception):
    """A pattern that no automaton can hold, or that this module cannot read."""


@lru_cache(maxsize=256)
def pattern_automaton(pattern: str) -> Automaton:
    """Return an automaton of the strings in which a pattern is found.

    Raises:
        UnheldPatternError: It has parts such as lookaheads, or is no pattern.
        TooLargeError: It has too many states.
    """
    reader = _Reader(pattern)
    looks = reader.lookaheads()
    found = _search(reader.read())
    if not looks:
        return found
    # as for passwords: some things have to be found, and others not, at the same place
    automata = [_search(("cat", [("start",), part])) for part, _ in looks]
    return combined(
        [found, *automata],
        lambda said, *says: said
        and all(s == must_match for s, (_, must_match) in zip(says, looks, strict=True)),
    )


def _search(part: _Part) -> Automaton:
    """Return an automaton of the strings in which a part is found."""
    nfa = _Nfa()
    end = nfa.add(part, nfa.new())
    nfa.moves[0].append((ANY, 0))  # it may begin anywhere, and go on after its end
    nfa.moves[end].append((ANY, end))

    def edges(state: tuple[frozenset[int], bool]) -> list[Any]:
        moves = [move for node in state[0] for move in nfa.moves[node]]
        found: dict[frozenset[int], list[tuple[int, int]]] = {}
        cuts = sorted({0, 0x110000} | {c for r, _ in moves for x, y in r for c in (x, y + 1)})
        for low, after in pairwise(cuts):
            to = frozenset(t for r, t in moves if any(x <= low <= y for x, y in r))
            if to:
                found.setdefault(to, []).append((low, after - 1))
        return [
            (both(tuple(ranges), ANY), (nfa.closure(to, at_start=False), False))
            for to, ranges in found.items()
            if both(tuple(ranges), ANY)
        ]

    def accepts(state: tuple[frozenset[int], bool]) -> bool:
        return end in nfa.closure(state[0], at_start=state[1], at_end=True)

    return explored((nfa.closure(frozenset({0}), at_start=True), True), edges, accepts)


class _Nfa:
    def __init__(self) -> None:
        self.moves: list[list[tuple[Ranges, int]]] = []
        self.free: list[list[tuple[str, int]]] = []

    def new(self) -> int:
        if len(self.moves) >= _MAX_NODES:
            raise TooLargeError
        self.moves.append([])
        self.free.append([])
        return len(self.moves) - 1

    def link(self, a: int, b: int, when: str = "") -> None:
        self.free[a].append((when, b))

    def add(self, part: _Part, start: int) -> int:
        """Add a part behind a node, and return the node at its end."""
        kind = part[0]
        if kind == "cat":
            for one in part[1]:
                start = self.add(one, start)
            return start
        end = self.new()
        if kind == "set":
            self.moves[start].append((part[1], end))
        elif kind == "alt":
            for one in part[1]:
                self.link(self.add(one, self._branch(start)), end)
        elif kind == "rep":
            _, one, low, high = part
            for _ in range(low):
                start = self.add(one, start)
            if high is None:
                loop = self._branch(start)
                self.link(self.add(one, loop), loop)
                self.link(loop, end)
            else:
                for _ in range(high - low):
                    self.link(start, end)
                    start = self.add(one, self._branch(start))
                self.link(start, end)
        else:
            self.link(start, end, kind)
        return end

    def _branch(self, start: int) -> int:
        node = self.new()
        self.link(start, node)
        return node

    def closure(
        self, nodes: frozenset[int], *, at_start: bool, at_end: bool = False
    ) -> frozenset[int]:
        found = set(nodes)
        queue = list(nodes)
        passable = {"": True, "start": at_start, "end": at_end}
        while queue:
            for when, to in self.free[queue.pop()]:
                if passable[when] and to not in found:
                    found.add(to)
                    queue.append(to)
        return frozenset(found)


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def read(self) -> _Part:
        """Read all, or all behind the lookaheads."""
        at_start = self._at > 0
        part = self._alternatives()
        if at_start:
            if part[0] == "alt":
                raise UnheldPatternError("a lookahead in one of several alternatives")
            part = ("cat", [("start",), part])
        if self._at < len(self._pattern):
            raise UnheldPatternError("a bracket that closes nothing")
        return part

    def lookaheads(self) -> list[tuple[_Part, bool]]:
        """Return the lookaheads at the start of the string, each with whether it has to match.

        Elsewhere no automaton is easily what they say.
        """
        found: list[tuple[_Part, bool]] = []
        if not self._pattern.startswith(("^(?=", "^(?!")):
            return found
        self._at = 1
        while self._pattern.startswith(("(?=", "(?!"), self._at):
            must_match = self._pattern[self._at + 2] == "="
            self._at += 3
            found.append((self._alternatives(), must_match))
            if not self._skip(")"):
                raise UnheldPatternError("a bracket that is not closed")
        return found

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        character = self._peek()
        if not character:
            raise UnheldPatternError("it ends too early")
        self._at += 1
        return character

    def _skip(self, text: str) -> bool:
        if self._pattern.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _alternatives(self) -> _Part:
        parts = [self._sequence()]
        while self._skip("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else ("alt", parts)

    def _sequence(self) -> _Part:
        parts = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._one()))
        return ("cat", parts)

    def _one(self) -> _Part:
        character = self._take()
        if character == "(":
            return self._group()
        if character == "[":
            return ("set", self._class())
        if character == "\\":
            return ("set", self._escape())
        if character == ".":
            return ("set", _DOT)
        if character in "^$":
            return ("start",) if character == "^" else ("end",)
        if character in "*+?":
            raise UnheldPatternError("nothing to repeat")
        return ("set", _single(ord(character)))

    def _group(self) -> _Part:
        if self._skip("?") and not self._skip(":"):
            if not self._skip("<") or self._peek() in ("=", "!", ""):
                raise UnheldPatternError("a lookahead, a lookbehind or a flag")
            while self._take() != ">":
                pass
        part = self._alternatives()
        if not self._skip(")"):
            raise UnheldPatternError("a bracket that is not closed")
        return part

    def _repeated(self, part: _Part) -> _Part:
        low, high = self._count()
        if low < 0:
            return part
        if part[0] in ("start", "end"):
            raise UnheldPatternError("an anchor that is repeated")
        self._skip("?")  # lazy or not, it matches the same
        if self._peek() in ("*", "+"):
            raise UnheldPatternError("nothing to repeat")
        return ("rep", part, low, high)

    def _count(self) -> tuple[int, int | None]:
        for sign, low, high in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._skip(sign):
                return low, high
        if self._peek() != "{":
            return -1, None
        close = self._pattern.find("}", self._at)
        first, comma, second = self._pattern[self._at + 1 : max(close, 0)].partition(",")
        if not first.isdecimal() or (second and not second.isdecimal()):
            raise UnheldPatternError("a brace that is no count")
        self._at = close + 1
        low = int(first)
        high = (int(second) if second else None) if comma else low
        if low > _MAX_NODES or (high or 0) > _MAX_NODES or (high is not None and high < low):
            raise TooLargeError
        return low, high

    def _class(self) -> Ranges:
        negative = self._skip("^")
        parts: list[Ranges] = []
        while not self._skip("]"):
            low = self._member()
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._take()
                high = self._member()
                if not _is_single(low) or not _is_single(high) or low[0][0] > high[0][0]:
                    raise UnheldPatternError("a range that is none")
                low = ((low[0][0], high[0][0]),)
            parts.append(low)
        ranges = either(*parts)
        return others(ranges) if negative else ranges

    def _member(self) -> Ranges:
        character = self._take()
        if character != "\\":
            return _single(ord(character))
        if self._skip("b"):
            return _single(8)
        return self._escape()

    def _escape(self) -> Ranges:
        character = self._take()
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _CONTROLS:
            return _single(_CONTROLS[character])
        if character == "c":
            return _single(ord(self._take()) % 32)
        if character in "xu":
            return _single(self._hex(character))
        if character in "pP":
            ranges = self._category()
            return ranges if character == "p" else others(ranges)
        if character.isalnum():
            raise UnheldPatternError(f"the escape \\{character}")
        return _single(ord(character))

    def _hex(self, kind: str) -> int:
        if kind == "u" and self._skip("{"):
            digits = self._pattern[self._at : self._pattern.find("}", self._at)]
            self._at += len(digits) + 1
        else:
            n = 2 if kind == "x" else 4
            digits = self._pattern[self._at : self._at + n]
            self._at += n
        try:
            code = int(digits, 16)
        except ValueError as error:
            raise UnheldPatternError(f"the escape \\{kind}{digits}") from error
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise UnheldPatternError(f"the escape \\{kind}{digits}")
        return code

    def _category(self) -> Ranges:
        name = ""
        if self._skip("{"):
            while self._peek() not in ("}", ""):
                name += self._take()
            self._skip("}")
        name = _CATEGORIES.get(name, name)
        ranges = _category(name) if len(name) in (1, 2) else ()
        if not ranges:
            raise UnheldPatternError(f"the property {name}")
        return ranges


def _single(code: int) -> Ranges:
    return ((code, code),)


def _is_single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


@lru_cache(maxsize=16)
def _category(name: str) -> Ranges:
    codes = range(sys.maxunicode + 1)
    return either(
        tuple((code, code) for code in codes if unicodedata.category(chr(code)).startswith(name))
    )
