"""Grammars of JSON schemas, where llama.cpp's own do not hold all that a schema says.

What a grammar here cannot hold either is named, and left to the check of the answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.schema.automaton import (
    EVERYTHING,
    Automaton,
    TooLargeError,
    combined,
    gbnf_class,
    gbnf_rules,
    gbnf_string,
    lengths,
    words,
)
from langgraph_kvfork.schema.check import schema_check
from langgraph_kvfork.schema.formats import FORMATS
from langgraph_kvfork.schema.numbers import NumberRange, number_automaton
from langgraph_kvfork.schema.pattern import UnheldPatternError, pattern_automaton
from langgraph_kvfork.schema.shapes import (
    Array,
    Boolean,
    Constant,
    Items,
    Number,
    Object,
    Properties,
    Schema,
    Shape,
    Shapes,
    String,
    TooManyShapesError,
)

_MAX_COUNT = 1000
"""Repetitions that llama.cpp's grammars can count are few."""

_EMPTY = '""'
_SPACE = r'| " " | "\n"{1,2} [ \t]{0,20}'
_HEX = "[0-9a-fA-F]"
_MEMBER = 'kvf-string ":" kvf-space kvf-value'
_BUILT_IN = {
    "kvf-space": _SPACE,
    # whole characters: a half of a pair, such as \ud800, is none
    "kvf-unicode": rf"[0-9a-cefA-CEF] {_HEX}{{3}} | [dD] [0-7] {_HEX}{{2}}",
    "kvf-char": r'[^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" kvf-unicode)',
    "kvf-string": r'"\"" kvf-char* "\""',
    "kvf-whole": '"-"? ("0" | [1-9] [0-9]{0,14})',
    # the numbers that a float can hold, however large the exponent is
    "kvf-number": 'kvf-whole ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "kvf-object": f'"{{" kvf-space ({_MEMBER} ("," kvf-space {_MEMBER})*)? kvf-space "}}"',
    "kvf-array": '"[" kvf-space (kvf-value ("," kvf-space kvf-value)*)? kvf-space "]"',
    "kvf-value": 'kvf-object | kvf-array | kvf-string | kvf-number | "true" | "false" | "null"',
}


@dataclass(frozen=True, slots=True)
class SchemaGrammar:
    """What the values of some schemas look like.

    Attributes:
        rules: GBNF.
        names: The rule of each schema; None: nothing matches it.
        dropped: Keywords that the rules do not hold.
    """

    rules: str
    names: tuple[str | None, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A schema, or a part of the texts that match it.

    Attributes:
        schema: The schema.
        strings: True: the strings that match it; False: all that are none; None: all.
    """

    schema: Schema
    strings: bool | None = None


def schema_grammar(root: Schema, parts: Sequence[Part], prefix: str = "kvf-") -> SchemaGrammar:
    """Return the grammar of some schemas of a document.

    Args:
        root: The document, in which references are looked up.
        parts: The schemas.
        prefix: What the names of rules begin with.

    Raises:
        InvalidRequestError: A reference leads nowhere, or too many follow one another.
    """
    writer = _Writer(root, prefix)
    try:
        names = tuple(map(writer.part, parts))
    except RecursionError as error:
        raise InvalidRequestError(
            "The schema is not possible: its parts are nested, or refer to one another, too deep; "
            "make it flatter."
        ) from error
    return SchemaGrammar(writer.text(), names, tuple(writer.dropped))


def object_properties(root: dict[str, Any]) -> tuple[list[Object], dict[str, Schema]]:
    """Return the objects that a document takes, and a schema for each property that these name.

    Raises:
        InvalidRequestError: A reference leads nowhere, or there are too many objects.
    """
    writer = _Writer(root, "")
    try:
        shapes = writer.shapes.of([root])
    except TooManyShapesError as error:
        raise InvalidRequestError(
            "A tool's parameters are not possible: their unions multiply to too many objects; pass "
            "one object with properties, and the unions in these."
        ) from error
    objects = [shape for shape in shapes if isinstance(shape, Object)]
    found: dict[str, list[Schema]] = {}
    for shape in objects:
        for name in _names(shape):
            parts = [_property(properties, name) for properties in shape.properties]
            parts = [part for part in parts if part is not True]
            part = {"allOf": parts} if len(parts) > 1 else parts[0] if parts else True
            found.setdefault(name, [])
            found[name] += [] if part in found[name] else [part]
    return objects, {
        name: {"anyOf": parts} if len(parts) > 1 else parts[0] for name, parts in found.items()
    }


class _Writer:
    def __init__(self, root: Schema, prefix: str) -> None:
        self._root = root
        self._prefix = prefix
        self._names: dict[str, str | None] = {}
        self._rules: dict[str, str] = {}
        self._extra: list[str] = []
        self._used: set[str] = set()
        self._n_rules = 0
        self.dropped: dict[str, None] = {}
        self.shapes = Shapes(root, self._drop, self._admits)

    def text(self) -> str:
        rules = {**_BUILT_IN, **self._rules}
        lines = [f"{name} ::= {body}\n" for name, body in rules.items()]
        return "".join([*lines, *self._extra])

    def _drop(self, keyword: str) -> None:
        self.dropped.setdefault(keyword)

    def _admits(self, schema: Schema, value: object) -> bool:
        if isinstance(schema, bool):
            return schema
        root = self._root if isinstance(self._root, dict) else {}
        # where references of the schema lead, without what else the document says
        places = {k: v for k, v in root.items() if k in ("$defs", "definitions", "$schema")}
        try:
            return schema_check({**places, "allOf": [schema]})(value) is None
        except InvalidRequestError:
            return True  # a reference leads elsewhere: the check of the whole answer will know

    def _new(self, kind: str) -> str:
        self._n_rules += 1
        return f"{self._prefix}{self._n_rules}-{kind}"

    def part(self, part: Part) -> str | None:
        """Return the rule of a part; None: nothing matches it."""
        if part.strings is None:
            return self.rule((part.schema,))
        try:
            shapes = self.shapes.of([part.schema])
        except TooManyShapesError:
            self._drop("unions of unions")
            return None if part.strings else "kvf-value"
        bodies = self._bodies([s for s in shapes if _is_string(s) == part.strings])
        if not bodies:
            return None
        name = self._new("part")
        self._rules[name] = bodies
        return name

    def _bodies(self, shapes: Sequence[Shape]) -> str:
        bodies = (self._body(shape) for shape in shapes)
        return " | ".join(dict.fromkeys(body for body in bodies if body is not None))

    def rule(self, schemas: Sequence[Schema]) -> str | None:
        """Return the rule of the texts that match all of some schemas; None: there are none."""
        texts = sorted({json.dumps(s, sort_keys=True) for s in schemas if s not in (True, {})})
        if not texts:
            return "kvf-value"
        key = "\n".join(texts)
        if key in self._names:
            name = self._names[key]
            if name is not None:
                self._used.add(name)
            return name
        name = self._new("value")
        self._names[key] = name
        try:
            # in the order of the first, which is the schema's own
            shapes = self.shapes.of(schemas)
        except TooManyShapesError:
            self._drop("unions of unions")
            self._rules[name] = "kvf-value"
            return name
        bodies = self._bodies(shapes)
        if not bodies and name in self._used:
            bodies = gbnf_class(((0x1F, 0x1F),))  # what it is a part of has no matches, either
        if not bodies:
            self._names[key] = None
            return None
        self._rules[name] = bodies
        return name

    def _body(self, shape: Shape) -> str | None:
        if isinstance(shape, Constant):
            return _literal(json.dumps(shape.value, ensure_ascii=False))
        if isinstance(shape, Boolean):
            return '"true" | "false"'
        if isinstance(shape, Number):
            return self._number(shape.range)
        if isinstance(shape, String):
            return self._string(shape)
        if isinstance(shape, Array):
            return self._array(shape)
        if isinstance(shape, Object):
            return self._object(shape)
        return '"null"'

    #
    # numbers and strings
    #

    def _number(self, numbers: NumberRange) -> str | None:
        if numbers.is_any:
            return "kvf-whole" if numbers.integer else "kvf-number"
        if not numbers.is_possible:
            return None
        try:
            automaton = number_automaton(numbers)
        except TooLargeError:
            self._drop("a number's bounds or multipleOf")
            return "kvf-whole" if numbers.integer else "kvf-number"
        if not automaton:
            return None
        name = self._new("number")
        self._extra.append(gbnf_rules(name, automaton, '""', gbnf_class))
        return name

    def _string(self, shape: String) -> str | None:
        if shape.high is not None and shape.low > shape.high:
            return None
        if not shape.patterns:
            return self._text(shape.low, shape.high)
        automaton = self._automaton(shape)
        if automaton is None:
            return self._text(shape.low, shape.high)
        return self._automaton_rule(automaton)

    def _text(self, low: int, high: int | None) -> str:
        if low > _MAX_COUNT:
            self._drop("minLength")
            low = 0
        if high is not None and high > _MAX_COUNT:
            self._drop("maxLength")
            high = None
        if low == 0 and high is None:
            return "kvf-string"
        return f'"\\"" kvf-char{_times(low, high)} "\\""'

    def _automaton(self, shape: String) -> Automaton | None:
        """Return an automaton of a shape's strings; None: it would be too large."""
        read = map(self._pattern, shape.patterns)
        automata = [automaton for automaton in read if automaton is not None]
        if not automata:
            return None
        if shape.low > 0 or shape.high is not None:
            try:
                return combined([*automata, lengths(shape.low, shape.high)], _all)
            except TooLargeError:
                self._drop("a length beside a pattern")
        try:
            return combined(automata, _all) if len(automata) > 1 else automata[0]
        except TooLargeError:
            self._drop("several patterns of one string")
            return automata[0]

    def _pattern(self, pattern: str) -> Automaton | None:
        named = (f"format {name!r}" for name, known in FORMATS.items() if known == pattern)
        name = next(named, f"pattern {pattern!r}")
        try:
            return pattern_automaton(pattern)
        except UnheldPatternError as error:
            self._drop(f"{name} ({error})")
        except TooLargeError:
            self._drop(f"{name} (it is too large)")
        return None

    def _automaton_rule(self, automaton: Automaton) -> str | None:
        if not automaton:
            return None
        name = self._new("string")
        self._extra.append(gbnf_string(name, automaton))
        return name

    #
    # arrays
    #

    def _array(self, shape: Array) -> str | None:
        if not shape.items and shape.low == 0 and shape.high is None:
            return "kvf-array"
        n_first = max((len(items.first) for items in shape.items), default=0)
        first: list[str] = []
        high = shape.high
        for i in range(n_first if high is None else min(n_first, high)):
            item = self.rule([_item(items, i) for items in shape.items])
            if item is None:
                high = i
                break
            first.append(item)
        other = None
        if high is None or high > n_first:
            other = self.rule([items.others for items in shape.items])
            if other is None:
                high = n_first
        if high is not None and shape.low > high:
            return None
        low = shape.low
        if low > _MAX_COUNT or (high is not None and high > _MAX_COUNT and other):
            self._drop("a count of more than 1,000 items")
            low, high = min(low, _MAX_COUNT), None
        return f'"[" kvf-space {self._items(first, other, low, high)} kvf-space "]"'

    def _items(self, first: Sequence[str], other: str | None, low: int, high: int | None) -> str:
        """Return the items of an array, from the last one on: each knows what may follow it."""
        n = len(first)
        rest = ""
        if other is not None:
            most = None if high is None else high - n
            times = _times(max(low - n, 0), most)
            if n == 0:
                less = _times(max(low - 1, 0), None if most is None else most - 1)
                one = f'{other} ("," kvf-space {other}){less}'
                return one if low > 0 else f"({one})?"
            rest = f' ("," kvf-space {other}){times}'
        for i in reversed(range(n)):
            comma = '"," kvf-space ' if i else ""
            part = f"{comma}{first[i]}{rest}"
            rest = f" {part}" if i < low else f" ({part})?"
        return rest.strip()

    #
    # objects
    #

    def _object(self, shape: Object) -> str | None:
        members = self._members(shape)
        if members is None:
            return None
        extras = self._extras(shape, [name for name, _, _ in members])
        n_required = sum(required for _, _, required in members)
        n_optional = len(members) - n_required
        low, high = max(shape.low - n_required, 0), shape.high
        if high is not None and n_required > high:
            return None
        if high is not None:
            high -= n_required
            if n_optional and (n_optional > high or (extras and n_optional)):
                self._drop("maxProperties")
                high = None
        if low and not extras and low > n_optional:
            return None
        if low and (n_optional or low > _MAX_COUNT):
            self._drop("minProperties")
            low = 0
        if high is not None and high > _MAX_COUNT:
            self._drop("maxProperties")
            high = None
        if not members and extras == [_MEMBER] and not low and high is None:
            return "kvf-object"
        return f'"{{" kvf-space {self._body_of(members, extras, low, high)} kvf-space "}}"'

    def _members(self, shape: Object) -> list[tuple[str, str, bool]] | None:
        """Return named properties: name, rule, whether it is required; None: impossible."""
        members = []
        for name in _names(shape):
            required = name in shape.required
            known = all(self._admits(schema, name) for schema in shape.names)
            value = self.rule([_property(p, name) for p in shape.properties]) if known else None
            if value is None:
                if required:
                    return None
                continue
            key = _literal(json.dumps(name, ensure_ascii=False))
            rule = self._new("member")
            self._rules[rule] = f'{key} kvf-space ":" kvf-space {value}'
            members.append((name, rule, required))
        return members

    def _extras(self, shape: Object, named: Sequence[str]) -> list[str]:
        """Return the rules of properties that the schema does not name, for each kind."""
        taken = [name for p in shape.properties for name, _ in p.named]
        known = words(dict.fromkeys([*named, *taken, *shape.required]))
        names = self._names_of(shape)
        patterns = dict.fromkeys(pattern for p in shape.properties for pattern, _ in p.patterns)
        found: list[str] = []
        automata: list[Automaton] = []
        for pattern in patterns:
            automaton = self._pattern(pattern)
            if automaton is None:
                return []
            automata.append(automaton)
        for pattern, automaton in zip(patterns, automata, strict=True):
            value = self.rule([_by_pattern(p, pattern) for p in shape.properties])
            others = [other for other in automata if other is not automaton]
            found += self._extra_of(
                [automaton, names, known, *others],
                lambda one, name, *rest: one and name and not any(rest),
                value,
            )
        if self._is_open(shape):
            value = self.rule([_other(p) for p in shape.properties])
            if not automata and names is EVERYTHING and not known:
                return [*found, f'kvf-string ":" kvf-space {value}'] if value else found
            found += self._extra_of(
                [names, known, *automata], lambda name, *rest: name and not any(rest), value
            )
        return found

    def _names_of(self, shape: Object) -> Automaton:
        """Return an automaton of the names that a shape allows."""
        if not shape.names:
            return EVERYTHING
        try:
            shapes = [s for s in self.shapes.of(shape.names) if not isinstance(s, Boolean)]
        except TooManyShapesError:
            shapes = []
        strings = [s for s in shapes if isinstance(s, String)]
        constants = [s.value for s in shapes if isinstance(s, Constant)]
        automata = [words(value for value in constants if isinstance(value, str))]
        for string in strings:
            try:
                some = self._automaton(string) or lengths(string.low, string.high)
            except TooLargeError:
                self._drop("propertyNames")
                some = EVERYTHING
            automata.append(some)
        return combined(automata, lambda *says: any(says))

    def _extra_of(self, automata: Sequence[Automaton], accept: Any, value: str | None) -> list[str]:
        if value is None:
            return []
        try:
            name = self._automaton_rule(combined(automata, accept))
        except TooLargeError:
            self._drop("names of properties")
            return []
        return [f'{name} kvf-space ":" kvf-space {value}'] if name else []

    @staticmethod
    def _is_open(shape: Object) -> bool:
        """Return whether properties may come that the schema does not name.

        Where it does not say so, they come only if it names none.
        """
        if any(p.others is False for p in shape.properties):
            return False
        if any(p.others is not None for p in shape.properties):
            return True
        return not any(p.named or p.patterns for p in shape.properties)

    def _body_of(
        self,
        members: Sequence[tuple[str, str, bool]],
        extras: Sequence[str],
        low: int,
        high: int | None,
    ) -> str:
        """Return an object's members, from the last one on: each knows what may follow it."""
        later, first = "", ""  # what may follow a member, and what may follow the bracket
        if extras and high != 0:
            extra = self._new("extra")
            self._rules[extra] = " | ".join(extras)
            later = f'("," kvf-space {extra}){_times(low, high)}'
            less = _times(max(low - 1, 0), None if high is None else high - 1)
            first = f'{extra} ("," kvf-space {extra}){less}'
            first = first if low else f"({first})?"
        for i in reversed(range(len(members))):
            _, member, required = members[i]
            start = f"{member} {later}".strip()
            if required:
                first = start
            else:
                rest = self._new("rest")
                self._rules[rest] = f"{start} | {first or _EMPTY}"
                first = rest
            later = f'"," kvf-space {start}' if required else f'("," kvf-space {member})? {later}'
            if len(later) > 200:
                rest = self._new("rest")
                self._rules[rest] = later
                later = rest
        return first


def _is_string(shape: Shape) -> bool:
    return isinstance(shape.value if isinstance(shape, Constant) else shape, (str, String))


def _names(shape: Object) -> dict[str, None]:
    """Return the names that an object's schemas have, in order."""
    names = [name for properties in shape.properties for name, _ in properties.named]
    return dict.fromkeys([*names, *shape.required])


def _all(*says: bool) -> bool:
    return all(says)


def _item(items: Items, i: int) -> Schema:
    return items.first[i] if i < len(items.first) else items.others


def _property(properties: Properties, name: str) -> Schema:
    """Return the schema of one of an object's properties."""
    said = [schema for known, schema in properties.named if known == name]
    said += [schema for pattern, schema in properties.patterns if _finds(pattern, name)]
    if not said and properties.others is not None:
        said = [properties.others]
    return {"allOf": said} if len(said) > 1 else said[0] if said else True


def _by_pattern(properties: Properties, pattern: str) -> Schema:
    said = [schema for known, schema in properties.patterns if known == pattern]
    return said[0] if said else _other(properties)


def _other(properties: Properties) -> Schema:
    return True if properties.others is None else properties.others


def _finds(pattern: str, name: str) -> bool:
    return schema_check({"type": "string", "pattern": pattern})(name) is None


def _times(low: int, high: int | None) -> str:
    if high is None:
        return ("*", "+")[low] if low < 2 else f"{{{low},}}"
    return f"{{{low},{high}}}"


def _literal(text: str) -> str:
    escaped = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r"}
    return '"' + "".join(escaped.get(character, character) for character in text) + '"'
