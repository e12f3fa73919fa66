"""Automata of patterns and numbers, against Python's own; and what of schemas is held."""

import random
import re
from fractions import Fraction

import pytest
from pydantic import BaseModel

from langgraph_kvfork import ChatKVFork, InvalidRequestError
from langgraph_kvfork.convert.type_schema import model_schema
from langgraph_kvfork.schema.automaton import TooLargeError, combined, lengths, words
from langgraph_kvfork.schema.check import parse_json, schema_check
from langgraph_kvfork.schema.formats import FORMATS
from langgraph_kvfork.schema.held import held_answer, held_tools
from langgraph_kvfork.schema.limits import check_schema
from langgraph_kvfork.schema.numbers import NumberRange, number_automaton
from langgraph_kvfork.schema.pattern import UnheldPatternError, pattern_automaton


def takes(automaton, text):
    state = 0
    for character in text:
        for ranges, target in automaton.edges[state]:
            if any(low <= ord(character) <= high for low, high in ranges):
                state = target
                break
        else:
            return False
    return state in automaton.accepting


def walked(automaton, dice):
    state, text = 0, ""
    while True:
        edges = automaton.edges[state]
        if state in automaton.accepting and (not edges or dice.random() < 0.3):
            return text
        ranges, state = dice.choice(edges)
        low, high = dice.choice(ranges)
        text += chr(dice.randint(low, high))


PATTERNS = [
    r"^\d{5}$",
    r"a+b",
    r"^a|b$",
    r"^(ab|cd)*$",
    r"[^a-c]x{2,3}",
    r"",
    r"^$",
    r"(a|^b)c",
    r"\w+@\w+",
    r"^[\]\-a]+$",
    r"^(?:a|b){1,3}?c",
    r"x.y",
    r"^(?<year>\d\d)-[12]$",
    r"^(?=.*[a-c])(?=.*\d).{3,}$",
    r"^(?!^[-+.]*$)[+-]?\d*$",
    r"\u0061\x62\.",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_automaton_is_what_its_pattern_says(pattern):
    automaton = pattern_automaton(pattern)
    other = combined([automaton], lambda said: not said)
    dice = random.Random(pattern)
    python = pattern.replace("?<", "?P<")
    for _ in range(2000):
        text = "".join(dice.choice("abcdx@5-]12.+y") for _ in range(dice.randint(0, 7)))
        found = re.search(python, text) is not None
        assert takes(automaton, text) == found
        assert takes(other, text) != found


@pytest.mark.parametrize("pattern", [r"a(?=b)", r"(?<=a)b", r"\bx", r"(a)\1", r"(a", r"a)", r"*"])
def test_what_no_automaton_is_here_is_refused(pattern):
    with pytest.raises(UnheldPatternError):
        pattern_automaton(pattern)


def test_a_pattern_that_is_too_large_is_refused():
    with pytest.raises(TooLargeError):
        pattern_automaton("(?:(?:a{9}){9}){9999}")


def test_automata_are_combined():
    short = combined([pattern_automaton("^[a-z]+$"), lengths(2, 4)], lambda a, b: a and b)
    assert [takes(short, text) for text in ("a", "ab", "abcd", "abcde", "a1")] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert not combined([words(["a"]), words(["b"])], lambda a, b: a and b)
    with pytest.raises(TooLargeError):
        lengths(0, 10**9)


NUMBERS = [
    NumberRange(low=Fraction(0), high=Fraction(1)),
    NumberRange(low=Fraction(-3, 2), high=Fraction(25, 2), high_open=True),
    NumberRange(low=Fraction(5), low_open=True),
    NumberRange(high=Fraction(-7)),
    NumberRange(integer=True, low=Fraction(3), high=Fraction(1205)),
    NumberRange(integer=True, low=Fraction(-5, 2), high=Fraction(7, 2)),
    NumberRange(integer=True, multiple=Fraction(7), low=Fraction(-30)),
    NumberRange(multiple=Fraction(1, 100), low=Fraction(0), high=Fraction(100)),
    NumberRange(multiple=Fraction(5, 2)),
    NumberRange(low=Fraction(1, 1000), high=Fraction(1, 10), low_open=True),
    NumberRange(low=Fraction(100), high=Fraction(10**20)),
    NumberRange(low=Fraction(0), high=Fraction(0)),
]


def is_in(numbers, text):
    value = Fraction(text)
    if numbers.integer and value.denominator != 1:
        return False
    if numbers.low is not None and (value, 1) < (numbers.low, 1 + numbers.low_open):
        return False
    if numbers.high is not None and (value, 1 + numbers.high_open) > (numbers.high, 1):
        return False
    return numbers.multiple is None or (value / numbers.multiple).denominator == 1


@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_an_automaton_takes_the_numbers_of_a_range(numbers):
    automaton = number_automaton(numbers)
    dice = random.Random(1)
    for _ in range(500):
        text = walked(automaton, dice)
        assert is_in(numbers, text)
        assert is_in(numbers, repr(float(text))), "as a float, too"
    for _ in range(2000):
        some = (
            f"{dice.uniform(-20, 20):.1f}",
            str(dice.randint(-40, 1300)),
            f"{dice.random():.2f}",
        )
        text = dice.choice(some)
        if text.startswith("-0") and Fraction(text) == 0:
            continue  # a zero has no sign here
        if "." not in text or (not numbers.integer and numbers.multiple is None):
            assert takes(automaton, text) == is_in(numbers, text)


def test_there_is_no_number_between_bounds_that_meet():
    open_at_both_ends = NumberRange(low=Fraction(1), low_open=True, high=Fraction(1))
    assert not number_automaton(open_at_both_ends)
    with pytest.raises(TooLargeError):
        number_automaton(NumberRange(multiple=Fraction(123456789)))


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_what_a_format_takes_is_of_that_format(form):
    automaton = pattern_automaton(FORMATS[form])
    check = schema_check({"type": "string", "format": form})
    dice = random.Random(form)
    texts = [walked(automaton, dice) for _ in range(300)]
    assert [text for text in texts if check(text) is not None] == []


def of(part):
    return {"type": "object", "properties": {"a": part}, "required": ["a"]}


@pytest.mark.parametrize(
    ("part", "dropped"),
    [
        ({"type": "string", "pattern": "^a(?=b)"}, "lookahead"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"const": 1}}, "contains"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {"type": "string"}, "then": {"minLength": 3}}, "if"),
        ({"type": "string", "format": "regex"}, "format 'regex'"),
        ({"type": "number", "multipleOf": 123456789}, "multipleOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "object", "properties": {"b": {}, "c": {}}, "minProperties": 1}, "minProp"),
    ],
)
def test_what_is_not_held_has_a_name(part, dropped):
    assert dropped in ", ".join(held_answer(of(part)).dropped)
    tool = {"type": "function", "function": {"name": "x", "parameters": of(part)}}
    assert dropped in ", ".join(held_tools([tool]).dropped)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "integer"},
        {"type": "string", "maxLength": 9},
        {"type": "string", "pattern": "x"},
        {"type": "string", "pattern": "^x{2}$", "minLength": 2},
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        {"type": "string", "format": "password"},
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {
            "properties": {"b": {"type": "null"}},
            "anyOf": [{"required": ["b"]}, {"required": ["c"]}],
        },
        {"allOf": [{"type": "integer"}, {"minimum": 3}]},
        {"type": "array", "prefixItems": [{}, True], "items": False},
        {"type": "object", "patternProperties": {"^x": {}}, "additionalProperties": False},
    ],
)
def test_what_is_held_is_not_named(part):
    assert held_answer(of(part)).dropped == ()


@pytest.mark.parametrize(
    "part",
    [
        False,
        {"allOf": [{"type": "integer"}, {"type": "string"}]},
        {"type": "integer", "minimum": 1.2, "maximum": 1.8},
        {"type": "string", "pattern": "^a$", "minLength": 2},
        {"enum": []},
        {"const": "x", "type": "integer"},
    ],
)
def test_what_nothing_can_match_is_refused(part):
    with pytest.raises(InvalidRequestError, match="nothing can match"):
        held_answer(of(part))
    tool = {"type": "function", "function": {"name": "x", "parameters": of(part)}}
    with pytest.raises(InvalidRequestError, match="nothing can match"):
        held_tools([tool])


def test_a_plain_schema_stays_as_it_is():
    class Plain(BaseModel):
        name: str
        numbers: list[int]
        maybe: float | None = None

    schema = model_schema(Plain)
    assert held_answer(schema).schemas == [schema]
    assert held_answer(schema).constants == {}


def test_a_tool_tells_the_model_what_it_is():
    """The prompt has the schema as it is, and one that refers to itself whole."""

    class Tree(BaseModel):
        """A tree."""

        value: int
        child: "Tree | None" = None

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    parameters = {"type": "object", "properties": {"a": {"type": "number", "minimum": 3}}}
    tool = {"type": "function", "function": {"name": "x", "parameters": parameters}}
    bound = ChatKVFork().bind_tools([tool, Tree])
    first, second = (tool["function"]["parameters"] for tool in bound.kwargs["tools"])
    assert first == parameters
    assert second["$defs"]["Tree"]["properties"]["child"]["anyOf"][0] == {"$ref": "#/$defs/Tree"}
    assert second["properties"].keys() == {"value", "child"}


@pytest.mark.parametrize("text", ['{"a": 1', '{"a": 1}}', "[1,]", "NaN", "1e999", "-Infinity", ""])
def test_nothing_is_repaired(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)
    with pytest.raises(ValueError, match=r".+"):
        parse_json("[" * 100_000 + text)


def test_what_refers_to_other_documents_is_refused_without_asking_for_them():
    with pytest.raises(InvalidRequestError, match=r"nothing is fetched"):
        schema_check({"$ref": "http://127.0.0.1:9/schema.json"})


@pytest.mark.parametrize("word", ["properties", "items", "anyOf", "const", "default", "x"])
def test_a_schema_is_bounded(word):
    deep = {"type": "object"}
    for _ in range(10_000):
        deep = {word: {"a": deep} if word == "properties" else [deep] if word == "anyOf" else deep}
    for attempt in (
        lambda: check_schema(deep, "schema"),
        lambda: ChatKVFork().with_structured_output(deep),
        lambda: ChatKVFork().bind_tools(
            [{"type": "function", "function": {"name": "x", "parameters": deep}}]
        ),
        lambda: ChatKVFork()._call(
            None, {"response_format": {"type": "json_schema", "json_schema": {"schema": deep}}}
        ),
    ):
        with pytest.raises(InvalidRequestError, match=r"nested more than 128 levels"):
            attempt()
    shared = {"type": "object"}
    for _ in range(60):  # as a tree, it has 2^60 parts
        shared = {"properties": {"a": shared, "b": shared}}
    with pytest.raises(InvalidRequestError, match=r"20,000 parts"):
        check_schema(shared, "schema")
