"""Where the references of a schema lead, within its document."""

import pytest

from langgraph_kvfork import InvalidRequestError
from langgraph_kvfork.schema.check import schema_check
from langgraph_kvfork.schema.held import held_answer
from langgraph_kvfork.schema.references import References

NUMBER = {"type": "integer", "minimum": 41, "maximum": 42}


@pytest.mark.parametrize(
    ("document", "reference"),
    [
        ({"$defs": {"a": NUMBER}}, "#/$defs/a"),
        ({"$defs": {"a/b~c d": NUMBER}}, "#/$defs/a~1b~0c%20d"),
        ({"$defs": {"a": {"$anchor": "here", **NUMBER}}}, "#here"),
        ({"$defs": {"a": {"$id": "item.json", **NUMBER}}}, "item.json"),
        ({"$defs": {"a": {"$id": "item.json#", **NUMBER}}}, "item.json"),
        ({"$id": "https://x.org/top/s.json", "$defs": {"a": {"$id": "i", **NUMBER}}}, "i"),
        (
            {"$id": "https://x.org/top/s.json", "$defs": {"a": {"$id": "i", **NUMBER}}},
            "https://x.org/top/i",
        ),
        ({"$id": "https://x.org/a/s", "$defs": {"a": {"$id": "/b/i", **NUMBER}}}, "../b/i"),
        ({"$id": "urn:example:1", "$defs": {"a": NUMBER}}, "urn:example:1#/$defs/a"),
        ({"$id": "urn:example:1", "$defs": {"a": NUMBER}}, "#/$defs/a"),
        ({"$defs": {"a": {"$id": "urn:x:2", "$defs": {"b": NUMBER}}}}, "urn:x:2#/$defs/b"),
        ({"$defs": {"a": {"$id": "i", "$anchor": "here", **NUMBER}}}, "i#here"),
    ],
)
def test_a_reference_leads_to_its_part(document, reference):
    schema = {**document, "properties": {"x": {"$ref": reference}}, "required": ["x"]}
    found = References(schema).target(schema["properties"]["x"], reference)
    assert NUMBER.items() <= found.items()
    # and what generation follows is what the check means
    assert schema_check(schema)({"x": 41}) is None
    assert schema_check(schema)({"x": 43}) is not None
    assert held_answer({"title": "answer", **schema}).dropped == ()


def test_a_reference_is_relative_to_the_part_that_it_stands_in():
    inner = {"$ref": "#/$defs/a"}
    document = {
        "$id": "https://x.org/s",
        "$defs": {
            "a": {"type": "string"},
            "b": {"$id": "t", "$defs": {"a": NUMBER}, "properties": {"y": inner}},
        },
    }
    references = References(document)
    assert references.target(inner, "#/$defs/a") is NUMBER
    assert references.target(document, "#/$defs/a") == {"type": "string"}


@pytest.mark.parametrize("reference", ["#/$defs/b", "#b", "other.json", "#/$defs/a/type", "#/x/9"])
def test_a_reference_that_leads_nowhere_is_refused(reference):
    document = {"$defs": {"a": NUMBER}, "x": [NUMBER]}
    with pytest.raises(InvalidRequestError, match=r"^\$ref='.*it leads to nothing"):
        References(document).target(document, reference)
