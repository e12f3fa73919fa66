"""JSON schemas as alternatives, for a grammar: references, unions and intersections are worked out.

A *shape* describes values of one kind: strings of some length, objects with some properties. A
schema becomes a list of shapes, and each value that matches the schema has one of them. An
intersection (`allOf`, `$ref` beside other keywords) is worked out pair by pair, a union (`anyOf`,
`oneOf`) adds its alternatives.

One level only: the schemas of items and properties stay schemas. An object that has to match two
schemas has two `Properties`, and a property has to match what both say of it.

A shape may allow more than its schema, never less. Each keyword that was left out is passed to
`drop`, and the check of the whole answer (`check.py`) has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeAlias

from langgraph_kvfork.schema.formats import FORMATS, ONLY_CHECKED
from langgraph_kvfork.schema.numbers import ANY_NUMBER, NumberRange
from langgraph_kvfork.schema.references import References

Schema: TypeAlias = "dict[str, Any] | bool"

_KINDS = ("object", "array", "string", "number", "boolean", "null")
_MAX_SHAPES = 100
"""Of one schema; unions of unions could have any number of them."""
_MAX_PARTS = 5000
"""That are looked at for one schema; parts that refer to others twice double at each step."""

# keywords that show, in a schema without type, which kind of value its author has in mind
_HINTS = {
    "object": {"properties", "required", "additionalProperties", "patternProperties"}
    | {"minProperties", "maxProperties", "propertyNames", "dependentRequired"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "contains", "uniqueItems"},
    "string": {"pattern", "minLength", "maxLength", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
_ONLY_CHECKED = {
    "if",
    "not",
    "contains",
    "uniqueItems",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
}
"""Keywords that no grammar holds here, but the check does."""


class TooManyShapesError(Exception):
    """Parts of a schema multiply to more than are worth a grammar."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What values of one kind have to be.

    Attributes:
        is_guessed: The schema has no type, and its keywords are about another kind: `minLength`
            alone also admits numbers, though its author hardly means them. Such a shape is left out
            if the schema has others.
    """

    is_guessed: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Constant(Shape):
    """One value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Boolean(Shape):
    """True or false."""


@dataclass(frozen=True, slots=True)
class Null(Shape):
    """Null."""


@dataclass(frozen=True, slots=True)
class Number(Shape):
    """A number."""

    range: NumberRange = ANY_NUMBER


@dataclass(frozen=True, slots=True)
class String(Shape):
    """A string.

    Attributes:
        low: Its least number of characters.
        high: Its greatest number of characters; None: any.
        patterns: Regular expressions, each of which is found in it.
    """

    low: int = 0
    high: int | None = None
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Items:
    """What one schema says of an array's items: the first ones, and all others."""

    first: tuple[Schema, ...] = ()
    others: Schema = True


@dataclass(frozen=True, slots=True)
class Array(Shape):
    """An array.

    Attributes:
        low: Its least number of items.
        high: Its greatest number of items; None: any.
        items: What each of the schemas that it has to match says of its items.
    """

    low: int = 0
    high: int | None = None
    items: tuple[Items, ...] = ()


@dataclass(frozen=True, slots=True)
class Properties:
    """What one schema says of an object's properties.

    Attributes:
        named: Schemas by a property's name.
        patterns: Schemas by a pattern that is found in a property's name.
        others: The schema of all other properties; None: the schema says nothing of them.
    """

    named: tuple[tuple[str, Schema], ...] = ()
    patterns: tuple[tuple[str, Schema], ...] = ()
    others: Schema | None = None


@dataclass(frozen=True, slots=True)
class Object(Shape):
    """An object.

    Attributes:
        low: Its least number of properties.
        high: Its greatest number of properties; None: any.
        required: Names of properties that it has.
        properties: What each of the schemas that it has to match says of its properties.
        names: Schemas that the names of all properties have to match.
    """

    low: int = 0
    high: int | None = None
    required: tuple[str, ...] = ()
    properties: tuple[Properties, ...] = ()
    names: tuple[Schema, ...] = ()


class Shapes:
    """Finds the shapes of a document's schemas.

    Args:
        root: The document.
        drop: Called with each keyword that is only checked.
        admits: Returns whether a schema of the document takes a value.
    """

    def __init__(
        self,
        root: Schema,
        drop: Callable[[str], None],
        admits: Callable[[Schema, object], bool],
    ) -> None:
        self._references = References(root)
        self._drop = drop
        self._admits = admits
        self._n_parts = 0

    def of(self, schemas: Iterable[Schema]) -> list[Shape]:
        """Return the shapes of the values that match all of `schemas`.

        Raises:
            TooManyShapesError: There are too many.
            InvalidRequestError: A reference leads nowhere.
        """
        self._n_parts = 0
        shapes = self._all([self._of(schema, frozenset()) for schema in schemas])
        return [shape for shape in shapes if not shape.is_guessed] or shapes

    def _of(self, schema: Schema, followed: frozenset[int]) -> list[Shape]:
        """Return a schema's shapes.

        Args:
            schema: The schema.
            followed: Schemas that references have led to on the way, by their identity. One that
                leads there again is about the same value, and says nothing new.
        """
        if isinstance(schema, bool):
            return _any_shapes() if schema else []
        self._n_parts += 1
        if self._n_parts > _MAX_PARTS:
            raise TooManyShapesError
        for keyword in _ONLY_CHECKED & schema.keys():
            if _says_something(schema, keyword):
                self._drop(keyword)
        parts = [self._own(schema)]
        reference = schema.get("$ref")
        if isinstance(reference, str):
            target = self._references.target(schema, reference)
            if id(target) not in followed:
                parts.append(self._of(target, followed | {id(target)}))
        parts += [self._of(part, followed) for part in schema.get("allOf", ())]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                unions = [self._of(part, followed) for part in schema[keyword]]
                # oneOf refuses a value that two alternatives take, which a grammar cannot
                if keyword == "oneOf" and not _are_apart(unions):
                    self._drop(keyword)
                parts.append([shape for shapes in unions for shape in shapes])
        shapes = self._all(parts)
        if schema.get("unevaluatedProperties") is False:
            return [_closed(shape) if isinstance(shape, Object) else shape for shape in shapes]
        return shapes

    def _own(self, schema: dict[str, Any]) -> list[Shape]:
        """Return the shapes of a schema's own keywords, without references and unions."""
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if values is not None:
            return [Constant(value) for value in values if self._admits(schema, value)]
        kinds = schema.get("type", list(_KINDS))
        kinds = [kinds] if isinstance(kinds, str) else kinds
        hinted = {kind for kind, hints in _HINTS.items() if hints & schema.keys()}
        if "type" in schema or not hinted:
            hinted = set(_KINDS) | {"integer"}
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "integer"]
        return [replace(self._kind(kind, schema), is_guessed=kind not in hinted) for kind in kinds]

    def _kind(self, kind: str, schema: dict[str, Any]) -> Shape:
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            return self._string(schema)
        if kind in ("number", "integer"):
            return Number(_range(schema, integer=kind == "integer"))
        return Boolean() if kind == "boolean" else Null()

    def _string(self, schema: dict[str, Any]) -> String:
        patterns = [schema["pattern"]] if "pattern" in schema else []
        form = schema.get("format")
        if form in FORMATS:
            patterns.append(FORMATS[form])
        elif form in ONLY_CHECKED:
            self._drop(f"format {form!r}")
        low, high = _count(schema, "minLength", 0), _count(schema, "maxLength", None)
        return String(low or 0, high, tuple(patterns))

    def _array(self, schema: dict[str, Any]) -> Array:
        items, first = schema.get("items", True), schema.get("prefixItems", ())
        if isinstance(items, list):  # as it was before prefixItems
            items, first = schema.get("additionalItems", True), items
        given = Items(tuple(first), items)
        low, high = _count(schema, "minItems", 0), _count(schema, "maxItems", None)
        return Array(low or 0, high, (given,) if given != Items() else ())

    def _object(self, schema: dict[str, Any]) -> Object:
        others = schema.get("additionalProperties")
        unevaluated = schema.get("unevaluatedProperties")
        if others is None and unevaluated is not None and unevaluated is not False:
            others = unevaluated
        given = Properties(
            tuple(schema.get("properties", {}).items()),
            tuple(schema.get("patternProperties", {}).items()),
            others,
        )
        low, high = _count(schema, "minProperties", 0), _count(schema, "maxProperties", None)
        required = schema.get("required", ())
        return Object(
            low or 0,
            high,
            tuple(required) if isinstance(required, (list, tuple)) else (),
            (given,) if given != Properties() else (),
            (schema["propertyNames"],) if "propertyNames" in schema else (),
        )

    def _all(self, parts: Sequence[list[Shape]]) -> list[Shape]:
        """Return the shapes of values that have a shape of each part."""
        shapes = parts[0]
        for others in parts[1:]:
            both = (self._both(a, b) for a in shapes for b in others)
            shapes = []
            for shape in both:
                if shape is not None and shape not in shapes:
                    shapes.append(shape)
                    if len(shapes) > _MAX_SHAPES:
                        raise TooManyShapesError
        return shapes

    def _both(self, a: Shape, b: Shape) -> Shape | None:
        """Return the shape of values that have two shapes; None: there are none."""
        if isinstance(b, Constant) and not isinstance(a, Constant):
            a, b = b, a
        if isinstance(a, Constant):
            if isinstance(b, Constant):
                return a if _json(a.value) == _json(b.value) else None
            return a if _has_kind(a.value, b) else None
        if type(a) is not type(b):
            return None
        guessed = a.is_guessed or b.is_guessed
        if isinstance(a, Number) and isinstance(b, Number):
            return Number(a.range.both(b.range), is_guessed=guessed)
        if isinstance(a, (String, Array, Object)):
            assert isinstance(b, (String, Array, Object))
            shape: Shape = replace(
                a,
                low=max(a.low, b.low),
                high=min((h for h in (a.high, b.high) if h is not None), default=None),
                is_guessed=guessed,
            )
            if isinstance(shape, String) and isinstance(b, String):
                patterns = tuple(dict.fromkeys([*shape.patterns, *b.patterns]))
                return replace(shape, patterns=patterns)
            if isinstance(shape, Array) and isinstance(b, Array):
                return replace(shape, items=_joined(shape.items, b.items))
            assert isinstance(shape, Object)
            assert isinstance(b, Object)
            return replace(
                shape,
                required=tuple(dict.fromkeys([*shape.required, *b.required])),
                properties=_joined(shape.properties, b.properties),
                names=_joined(shape.names, b.names),
            )
        return replace(a, is_guessed=guessed)


def _closed(shape: Object) -> Object:
    """Return an object without properties that its schema, and those in it, say nothing of.

    What another schema says of the same object, beside this one, does not count.
    """
    if any(said.others is not None for said in shape.properties):
        return shape
    named = dict.fromkeys(name for said in shape.properties for name, _ in said.named)
    patterns = dict.fromkeys(pattern for said in shape.properties for pattern, _ in said.patterns)
    known = Properties(
        tuple((name, True) for name in named), tuple((p, True) for p in patterns), False
    )
    return replace(shape, properties=(*shape.properties, known))


def _says_something(schema: dict[str, Any], keyword: str) -> bool:
    """Return whether a keyword, as it stands in a schema, excludes any value."""
    if keyword == "if":
        return not schema.keys().isdisjoint({"then", "else"})
    if keyword == "unevaluatedItems":
        return schema[keyword] is not True
    return bool(schema[keyword]) or keyword in ("not", "contains")


def _any_shapes() -> list[Shape]:
    return [Object(), Array(), String(), Number(), Boolean(), Null()]


def _joined(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return a + tuple(part for part in b if part not in a)


def _range(schema: dict[str, Any], *, integer: bool) -> NumberRange:
    numbers = NumberRange(integer=integer)
    lows, highs = _bounds(schema, "minimum"), _bounds(schema, "maximum")
    for value, is_open in lows:
        numbers = numbers.both(NumberRange(low=value, low_open=is_open))
    for value, is_open in highs:
        numbers = numbers.both(NumberRange(high=value, high_open=is_open))
    if "multipleOf" in schema:
        numbers = numbers.both(NumberRange(multiple=_exact(schema["multipleOf"])))
    return numbers


def _bounds(schema: dict[str, Any], keyword: str) -> list[tuple[Fraction, bool]]:
    bounds = []
    exclusive = schema.get(f"exclusive{keyword.capitalize()}")
    if keyword in schema:  # beside it, older drafts say whether it is exclusive
        bounds.append((_exact(schema[keyword]), exclusive is True))
    if exclusive is not None and not isinstance(exclusive, bool):
        bounds.append((_exact(exclusive), True))
    return bounds


def _exact(number: float) -> Fraction:
    # as it is written: 0.1 is a tenth
    return Fraction(repr(number))


def _count(schema: dict[str, Any], keyword: str, default: int | None) -> int | None:
    value = schema.get(keyword)
    return default if value is None else int(value)


def _has_kind(value: object, shape: Shape) -> bool:
    """Return whether a value has a shape; of arrays and objects, only whether it is one.

    The check of the whole answer looks at their parts.
    """
    if isinstance(shape, Boolean):
        return isinstance(value, bool)
    if isinstance(shape, Null):
        return value is None
    if isinstance(shape, Number):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        exact, numbers = _exact(value), shape.range
        return numbers.both(NumberRange(low=exact, high=exact)).is_possible
    if isinstance(shape, String):
        return isinstance(value, str) and shape.low <= len(value) <= (
            len(value) if shape.high is None else shape.high
        )
    return isinstance(value, dict if isinstance(shape, Object) else list)


def _are_apart(unions: Sequence[list[Shape]]) -> bool:
    """Return whether certainly no value matches two alternatives of a union."""
    for i, shapes in enumerate(unions):
        for others in unions[i + 1 :]:
            if any(_may_meet(a, b) for a in shapes for b in others):
                return False
    return True


def _may_meet(a: Shape, b: Shape) -> bool:
    """Return whether some value may have both shapes."""
    if isinstance(a, Constant) and isinstance(b, Constant):
        return _json(a.value) == _json(b.value)
    if isinstance(a, Constant) or isinstance(b, Constant):
        constant, other = (a, b) if isinstance(a, Constant) else (b, a)
        assert isinstance(constant, Constant)
        return _has_kind(constant.value, other)
    if type(a) is not type(b):
        return False
    if isinstance(a, Number) and isinstance(b, Number):
        return a.range.both(b.range).is_possible
    if isinstance(a, Object) and isinstance(b, Object):
        # a property that both need, with another constant in each, keeps them apart
        for name in set(a.required) & set(b.required):
            some, others = (_constants(shape, name) for shape in (a, b))
            if some and others and not some & others:
                return False
    return True


def _constants(shape: Object, name: str) -> set[str]:
    """Return the only values that a property may have, as JSON; empty: it is not limited so."""
    for properties in shape.properties:
        schema = dict(properties.named).get(name)
        if isinstance(schema, dict) and ("const" in schema or "enum" in schema):
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return {_json(value) for value in values}
    return set()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)
