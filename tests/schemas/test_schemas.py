"""JSON Schema's own test suite: what is not left to the check holds while it is generated."""

import collections

import pytest
from walk import SUITE, answers, held, is_valid

from langgraph_kvfork import InvalidRequestError
from langgraph_kvfork.schema.check import schema_check

kinds = collections.Counter()


@pytest.mark.parametrize("case", SUITE, ids=[case["name"] for case in SUITE])
def test_answers_match_unless_something_is_dropped(case):
    try:
        rendered, dropped = held(case["schema"])
    except InvalidRequestError:
        kinds["refused"] += 1
        return
    texts = answers(rendered, 5, case["name"])
    kinds["checked" if dropped else "held"] += 1
    if not dropped:
        bad = [text for text in texts if not is_valid(text, case["schema"])]
        assert not bad


@pytest.mark.parametrize("case", SUITE, ids=[case["name"] for case in SUITE])
def test_the_check_takes_what_is_valid(case):
    try:
        check = schema_check(case["schema"])
    except InvalidRequestError:
        return
    if case["name"].startswith("format: "):
        return  # there, formats are said to be annotations; here they are checked
    assert [value for value in case["valid"] if check(value) is not None] == []


CLOSED = {"properties": {"bar": {"type": "string"}}, "unevaluatedProperties": False}
OTHER = {"properties": {"faz": {"type": "string"}}}


@pytest.mark.parametrize(
    ("schema", "may_have_faz"),
    [
        ({"properties": {"foo": CLOSED}, "anyOf": [{"properties": {"foo": OTHER}}]}, False),
        ({"properties": {"foo": {"allOf": [CLOSED, OTHER]}}}, False),
        ({"properties": {"foo": {"$ref": "#/$defs/closed", **OTHER}}}, False),
        ({"properties": {"foo": {**CLOSED, "allOf": [OTHER]}}}, True),
        ({"properties": {"foo": {**CLOSED, "$ref": "#/$defs/other"}}}, True),
        ({"properties": {"foo": {"allOf": [{**CLOSED, "anyOf": [OTHER]}]}}}, True),
    ],
)
def test_what_another_schema_says_beside_a_closed_one_does_not_count(schema, may_have_faz):
    """Unevaluated properties are those that the schema and its own parts say nothing of."""
    foo = {"type": "object", "minProperties": 0}
    schema = {
        "type": "object",
        **schema,
        "properties": {"foo": {**foo, **schema["properties"]["foo"]}},
        "required": ["foo"],
        "$defs": {"closed": CLOSED, "other": OTHER},
    }
    rendered, dropped = held(schema)
    assert dropped == ()
    texts = answers(rendered, 40, str(schema))
    assert texts
    assert [text for text in texts if not is_valid(text, schema)] == []
    assert any("faz" in text for text in texts) == may_have_faz


def test_most_of_it_is_held():
    """What no grammar here holds, and what refers to other documents, is the rest."""
    assert sum(kinds.values()) == len(SUITE)
    assert kinds["held"] >= 250
    assert kinds["refused"] <= 30
