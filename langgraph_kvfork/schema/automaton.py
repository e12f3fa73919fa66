"""Finite automata over characters: which strings match a schema.

An automaton reads a string's characters, not its JSON; `gbnf_string` writes the rules of the JSON
strings that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]
"""Characters, as sorted ranges of code points, both ends included."""

MAX_STATES = 2000
"""More make a grammar that costs more than it is worth."""

ANY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
"""All characters; surrogates are not characters."""

_RAW: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, 0x10FFFF))
"""Those that stand for themselves in JSON."""
_SHORT = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
"""Those that have a letter behind a backslash."""


class TooLargeError(Exception):
    """An automaton would have more than `MAX_STATES` states."""


@dataclass(frozen=True, slots=True)
class Automaton:
    """A deterministic automaton. State 0 is the first; a character without an edge is refused.

    Attributes:
        edges: For each state, characters and the state that they lead to; no two overlap.
        accepting: The states in which a string may end.
    """

    edges: tuple[tuple[tuple[Ranges, int], ...], ...]
    accepting: frozenset[int]

    def __bool__(self) -> bool:
        """Whether it takes any string at all."""
        return bool(self.accepting)


def combined(automata: Sequence[Automaton], accept: Callable[..., bool]) -> Automaton:
    """Return an automaton of the strings for which `accept` is true of the verdicts of `automata`.

    Raises:
        TooLargeError: It has too many states.
    """

    def edges(state: tuple[int | None, ...]) -> list[tuple[Ranges, tuple[int | None, ...]]]:
        all_edges = [
            automaton.edges[at] if at is not None else ()
            for automaton, at in zip(automata, state, strict=True)
        ]
        found: dict[tuple[int | None, ...], list[tuple[int, int]]] = {}
        for low, high in _pieces(ranges for some in all_edges for ranges, _ in some):
            target = tuple(
                next((to for ranges, to in some if _has(ranges, low)), None) for some in all_edges
            )
            found.setdefault(target, []).append((low, high))
        return [(tuple(ranges), target) for target, ranges in found.items()]

    def accepts(state: tuple[int | None, ...]) -> bool:
        says = (
            at is not None and at in automaton.accepting
            for automaton, at in zip(automata, state, strict=True)
        )
        return accept(*says)

    return explored(tuple(0 for _ in automata), edges, accepts)


def explored(start, edges, accepts) -> Automaton:  # type: ignore[no-untyped-def]
    """Return the automaton whose states are found from the first one on; dead ones are left out.

    Args:
        start: The first state.
        edges: Returns the characters of a state, and the states that they lead to.
        accepts: Returns whether a string may end in a state.

    Raises:
        TooLargeError: It has too many states.
    """
    number = {start: 0}
    states = [start]
    found: list[list[tuple[Ranges, int]]] = []
    while len(found) < len(states):
        here: dict[int, Ranges] = {}
        for ranges, target in edges(states[len(found)]):
            if target not in number:
                if len(states) >= 4 * MAX_STATES:
                    raise TooLargeError
                number[target] = len(states)
                states.append(target)
            here[number[target]] = either(here.get(number[target], ()), ranges)
        found.append([(ranges, target) for target, ranges in here.items()])
    return _without_dead(found, {i for i, state in enumerate(states) if accepts(state)})


def _without_dead(edges: list[list[tuple[Ranges, int]]], accepting: set[int]) -> Automaton:
    comes_from: list[list[int]] = [[] for _ in edges]
    for state, some in enumerate(edges):
        for _, target in some:
            comes_from[target].append(state)
    alive = set(accepting)
    queue = list(accepting)
    while queue:
        for state in comes_from[queue.pop()]:
            if state not in alive:
                alive.add(state)
                queue.append(state)
    kept = sorted(alive | {0})
    if len(kept) > MAX_STATES:
        raise TooLargeError
    number = {state: i for i, state in enumerate(kept)}
    return Automaton(
        tuple(
            tuple((ranges, number[to]) for ranges, to in edges[state] if to in alive)
            for state in kept
        ),
        frozenset(number[state] for state in accepting),
    )


def lengths(low: int, high: int | None) -> Automaton:
    """Return the automaton of all strings of `low` to `high` characters.

    Raises:
        TooLargeError: It has too many states.
    """
    last = low if high is None else high
    if last > MAX_STATES:
        raise TooLargeError
    edges = [((ANY, n + 1),) for n in range(last)]
    return Automaton(
        (*edges, () if high is not None else ((ANY, last),)), frozenset(range(low, last + 1))
    )


def words(some: Iterable[str]) -> Automaton:
    """Return the automaton of these strings and no others."""
    nodes: list[dict[str, int]] = [{}]
    accepting = set()
    for word in some:
        at = 0
        for character in word:
            if character not in nodes[at]:
                nodes.append({})
                nodes[at][character] = len(nodes) - 1
            at = nodes[at][character]
        accepting.add(at)
    return Automaton(
        tuple(tuple((((ord(c), ord(c)),), to) for c, to in node.items()) for node in nodes),
        frozenset(accepting),
    )


EVERYTHING = Automaton((((ANY, 0),),), frozenset({0}))
"""Takes any string."""


def gbnf_rules(name: str, automaton: Automaton, end: str, class_of: Callable[[Ranges], str]) -> str:
    """Return rules, the first of them `name`, for the texts that an automaton takes.

    Args:
        name: What the rules' names begin with.
        automaton: What takes the texts.
        end: What follows them, in GBNF.
        class_of: What makes GBNF of characters.
    """
    lines = []
    for state, edges in enumerate(automaton.edges):
        bodies = [f"{class_of(ranges)} {_rule(name, to)}" for ranges, to in edges]
        if state in automaton.accepting:
            bodies.append(end)
        lines.append(f"{_rule(name, state)} ::= {' | '.join(bodies)}\n")
    return "".join(lines)


def gbnf_string(name: str, automaton: Automaton) -> str:
    """Return rules, the first of them `name`, for the JSON strings that an automaton takes."""
    inner = f"{name}-c"
    rules = gbnf_rules(inner, automaton, r'"\""', _string_class)
    return f'{name} ::= "\\"" {inner}\n{rules}'


def gbnf_class(ranges: Ranges) -> str:
    """Return a class of characters as GBNF."""
    parts = (_code(low) if low == high else f"{_code(low)}-{_code(high)}" for low, high in ranges)
    return f"[{''.join(parts)}]"


def _rule(name: str, state: int) -> str:
    return f"{name}{state}" if state else name


def _string_class(ranges: Ranges) -> str:
    """Return characters of a string as GBNF, as JSON has them."""
    bodies = []
    if raw := both(ranges, _RAW):
        bodies.append(gbnf_class(raw))
    escaped = [letter for character, letter in _SHORT.items() if _has(ranges, ord(character))]
    if escaped:
        letters = tuple((ord(letter), ord(letter)) for letter in sorted(escaped))
        bodies.append(f'"\\\\" {gbnf_class(letters)}')
    if not bodies:  # control characters only
        bodies = [f'"\\\\u{code:04x}"' for low, high in ranges for code in range(low, high + 1)]
    return bodies[0] if len(bodies) == 1 else f"({' | '.join(bodies)})"


def _code(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


#
# sets of characters
#


def both(a: Ranges, b: Ranges) -> Ranges:
    """Return the characters that are in both."""
    cut = ((max(x[0], y[0]), min(x[1], y[1])) for x in a for y in b)
    return tuple(sorted((low, high) for low, high in cut if low <= high))


def either(*some: Ranges) -> Ranges:
    """Return the characters that are in any."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(part for ranges in some for part in ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def others(ranges: Ranges) -> Ranges:
    """Return the characters that are not in it."""
    rest = []
    at = 0
    for low, high in either(ranges):
        if low > at:
            rest.append((at, low - 1))
        at = high + 1
    if at <= 0x10FFFF:
        rest.append((at, 0x10FFFF))
    return both(tuple(rest), ANY)


def _has(ranges: Ranges, code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _pieces(some: Iterable[Ranges]) -> list[tuple[int, int]]:
    """Return all characters, cut wherever one of `some` begins or ends."""
    cuts = {low for low, _ in ANY} | {high + 1 for _, high in ANY}
    for ranges in some:
        for low, high in ranges:
            cuts |= {low, high + 1}
    ordered = sorted(cuts)
    pieces = zip(ordered, (after - 1 for after in ordered[1:]), strict=False)
    return [piece for piece in pieces if _has(ANY, piece[0])]
