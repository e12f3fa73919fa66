"""Ranges of numbers, bounds and multiples among them, as automata over the numbers' digits.

The automaton reads a decimal from left to right. Its state knows how the digits so far compare with
those of each bound, how many digits there are before and behind the point, and the remainder of the
number so far by the multiple; that decides whether the number may end. A negative number is its
magnitude behind a minus sign, between the bounds' magnitudes in the other order.

Numbers have at most 15 digits and no exponent, so that a float holds each exactly enough to compare
it. A bound or a multiple that has no such decimal is a `TooLargeError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from math import lcm

from langgraph_kvfork.schema.automaton import Automaton, Ranges, TooLargeError, explored

_DIGITS = 15
"""Any two decimals of so many digits are different floats."""
_LESS, _SAME, _MORE = -1, 0, 1


@dataclass(frozen=True, slots=True)
class NumberRange:
    """A set of numbers.

    Attributes:
        integer: Whether they have no fraction.
        low: The lower bound; None: there is none.
        low_open: Whether the lower bound is excluded.
        high: The upper bound; None: there is none.
        high_open: Whether the upper bound is excluded.
        multiple: They are multiples of this; None: of anything.
    """

    integer: bool = False
    low: Fraction | None = None
    low_open: bool = False
    high: Fraction | None = None
    high_open: bool = False
    multiple: Fraction | None = None

    @property
    def is_any(self) -> bool:
        """Whether every number (or whole number) is in it."""
        return self.low is None and self.high is None and self.multiple is None

    @property
    def is_possible(self) -> bool:
        """Whether any number may be in it, by its bounds; a multiple counts for one value only."""
        if self.low is None or self.high is None:
            return True
        if self.low == self.high:
            is_multiple = self.multiple is None or (self.low / self.multiple).denominator == 1
            whole = not self.integer or self.low.denominator == 1
            return is_multiple and whole and not (self.low_open or self.high_open)
        return self.low < self.high

    def both(self, other: NumberRange) -> NumberRange:
        """Return the numbers that are in both."""
        low, low_open = (
            max((r.low, r.low_open) for r in (self, other) if r.low is not None)
            if self.low is not None or other.low is not None
            else (None, False)
        )
        high, not_open = (
            min((r.high, not r.high_open) for r in (self, other) if r.high is not None)
            if self.high is not None or other.high is not None
            else (None, True)
        )
        multiples = [r.multiple for r in (self, other) if r.multiple is not None]
        return NumberRange(
            self.integer or other.integer, low, low_open, high, not not_open, _common(multiples)
        )


def _common(multiples: list[Fraction]) -> Fraction | None:
    """Return the least common multiple; None of none."""
    if not multiples:
        return None
    common = multiples[0]
    for other in multiples[1:]:
        bottom = lcm(common.denominator, other.denominator)
        common = Fraction(lcm(int(common * bottom), int(other * bottom)), bottom)
    return common


def number_automaton(numbers: NumberRange) -> Automaton:
    """Return the automaton of the decimals in a range, of at most 15 digits and without exponent.

    Raises:
        TooLargeError: A bound has too many digits, or a multiple too many remainders.
    """
    step = numbers.multiple
    if step is not None and numbers.integer:
        step = Fraction(step.numerator)
    parts = [_Magnitudes(numbers.integer, step, *_bounds(numbers))]
    mirrored = replace(
        numbers,
        low=None if numbers.high is None else -numbers.high,
        low_open=numbers.high_open,
        high=None if numbers.low is None else -numbers.low,
        high_open=numbers.low_open,
    )
    if mirrored.low is None or mirrored.low < 0:
        mirrored = replace(mirrored, low=Fraction(0), low_open=True)
    parts.append(_Magnitudes(numbers.integer, step, *_bounds(mirrored)))

    def edges(state: _State) -> Iterator[tuple[Ranges, _State]]:
        if state.part < 0:
            if parts[1].possible:
                yield _chars("-"), replace(state, part=1)
            if parts[0].possible:
                yield from parts[0].edges(replace(state, part=0))
        else:
            yield from parts[state.part].edges(state)

    def accepts(state: _State) -> bool:
        return state.part >= 0 and parts[state.part].accepts(state)

    return explored(_State(), edges, accepts)


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of a number after some of its characters."""

    part: int = -1  # 0: it is not negative, 1: it is, -1: nothing was read yet
    whole: int = 0  # digits before the point
    fraction: int = -1  # digits behind it; -1: there is no point yet
    low: int = _SAME  # how its digits compare with as many digits of the lower bound
    high: int = _SAME  # and of the upper bound
    rest: int = 0  # remainder of its digits, without the point, by the multiple's
    is_zero: bool = False  # the whole part is "0", which nothing but a point follows


ANY_NUMBER = NumberRange()


class _Bound:
    """A bound's digits."""

    def __init__(self, value: Fraction) -> None:
        digits = format(_decimal(value), "f")
        self.whole, _, self.fraction = digits.partition(".")
        self.fraction = self.fraction.rstrip("0")
        if len(self.whole) + len(self.fraction) > _DIGITS:
            raise TooLargeError

    def compared(self, whole: int, so_far: int) -> int:
        """Return how a number with so many digits before the point compares."""
        if whole != len(self.whole):
            return _MORE if whole > len(self.whole) else _LESS
        return so_far

    def at_end(self, state: _State, so_far: int) -> int:
        """Return how a number that ends in a state compares."""
        if state.fraction < 0:
            so_far = self.compared(state.whole, so_far)
        is_shorter = len(self.fraction) > max(state.fraction, 0)
        return _LESS if so_far == _SAME and is_shorter else so_far


def _decimal(value: Fraction) -> Decimal:
    """Return a fraction as a decimal; a `TooLargeError` if none is exact."""
    digits = Decimal(value.numerator) / Decimal(value.denominator)
    if Fraction(digits) != value:
        raise TooLargeError
    return digits


def _bounds(numbers: NumberRange) -> tuple[_Bound | None, bool, _Bound | None, bool, bool]:
    """Return the bounds of the numbers that are not negative, and whether there are any.

    Returns:
        The lower bound, whether it is excluded, the upper bound, whether it is excluded, and
        whether there are such numbers.
    """
    low, high = numbers.low, numbers.high
    if low is not None and low < 0:
        low = None
    possible = high is None or high > 0 or (high == 0 and not numbers.high_open)
    if high is not None and (not possible or high >= 10**_DIGITS):
        high = None
    return (
        None if low is None else _Bound(low),
        numbers.low_open,
        None if high is None else _Bound(high),
        numbers.high_open,
        possible,
    )


class _Magnitudes:
    """The numbers of one sign, without it: a part of the automaton."""

    def __init__(
        self,
        integer: bool,
        step: Fraction | None,
        low: _Bound | None,
        low_open: bool,
        high: _Bound | None,
        high_open: bool,
        possible: bool,
    ) -> None:
        self._integer = integer
        self._low, self._low_open = low, low_open
        self._high, self._high_open = high, high_open
        self.possible = possible
        # a multiple of step has no more decimals than it; without its point it is one of unit
        self._decimals = _DIGITS
        self._unit = 1
        if step is not None:
            self._decimals = len(format(_decimal(step), "f").partition(".")[2])
            self._unit = int(step * 10**self._decimals)
        if integer:
            self._decimals = 0

    def edges(self, state: _State) -> Iterator[tuple[Ranges, _State]]:
        digits = state.whole + max(state.fraction, 0)
        if state.fraction < 0 and state.whole > 0 and self._decimals > 0 and digits < _DIGITS:
            low = self._low.compared(state.whole, state.low) if self._low else _SAME
            high = self._high.compared(state.whole, state.high) if self._high else _SAME
            yield _chars("."), replace(state, fraction=0, low=low, high=high)
        if digits >= _DIGITS or state.fraction >= self._decimals:
            return
        if state.is_zero and state.fraction < 0:
            return
        for digit in "0123456789":
            yield _chars(digit), self._after(state, digit)

    def _after(self, state: _State, digit: str) -> _State:
        return replace(
            state,
            whole=state.whole + (state.fraction < 0),
            fraction=state.fraction + (state.fraction >= 0),
            low=_next(self._low, state, state.low, digit),
            high=_next(self._high, state, state.high, digit),
            rest=(state.rest * 10 + int(digit)) % self._unit,
            is_zero=state.is_zero or (state.whole == 0 and digit == "0"),
        )

    def accepts(self, state: _State) -> bool:
        if state.whole == 0 or state.fraction == 0:
            return False
        if self._low:
            compared = self._low.at_end(state, state.low)
            if compared == _LESS or (compared == _SAME and self._low_open):
                return False
        if self._high:
            compared = self._high.at_end(state, state.high)
            if compared == _MORE or (compared == _SAME and self._high_open):
                return False
        scale = 10 ** (self._decimals - max(state.fraction, 0)) if self._unit > 1 else 1
        return state.rest * scale % self._unit == 0


def _next(bound: _Bound | None, state: _State, so_far: int, digit: str) -> int:
    """Return how a number compares with a bound when one more digit is read."""
    if bound is None or so_far != _SAME:
        return so_far
    at, digits = (
        (state.whole, bound.whole) if state.fraction < 0 else (state.fraction, bound.fraction)
    )
    # beyond the bound's whole part, the count of digits will decide; beyond its fraction are zeros
    other = digits[at] if at < len(digits) else (digit if state.fraction < 0 else "0")
    return (digit > other) - (digit < other)


def _chars(text: str) -> Ranges:
    return tuple((ord(c), ord(c)) for c in text)
