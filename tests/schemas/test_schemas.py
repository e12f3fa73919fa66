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


def test_most_of_it_is_held():
    """What no grammar here holds, and what refers to other documents, is the rest."""
    assert sum(kinds.values()) == len(SUITE)
    assert kinds["held"] >= 250
    assert kinds["refused"] <= 30
