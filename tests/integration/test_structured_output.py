"""Structured output on a real model: all schemas, all methods, and answers that are cut off."""

import json
from typing import Optional

import pytest
from helpers import call
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, StateGraph
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from langgraph_kvfork import ForkBranch, ForkNode, InvalidRequestError, StructuredOutputError

TEXT = "John is 33 years old."


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=20)
    age: int


class PersonV1(BaseModelV1):
    """A person."""

    name: str
    age: int


class PersonDict(TypedDict):
    """A person."""

    name: str
    age: int


class Nested(BaseModel):
    """A family."""

    parent: Person
    children: list[Person] = Field(max_length=1)
    town: Optional[str] = None  # noqa: UP045 - the form that people use


class State(TypedDict):
    messages: list
    branches: dict


SCHEMA = Person.model_json_schema()
UNTITLED = {key: value for key, value in SCHEMA.items() if key not in {"title", "description"}}


@pytest.fixture(scope="session")
def llm(llm):
    return llm.model_copy(update={"max_tokens": 128})


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Person, PersonV1, PersonDict, SCHEMA, UNTITLED])
async def test_an_answer_matches_its_schema(llm, engine, schema, method, asynchronous):
    structured = llm.with_structured_output(schema, method=method)
    person = await call(structured, TEXT, asynchronous=asynchronous)
    if isinstance(schema, type) and schema is not PersonDict:
        assert type(person) is schema
        person = dict(person)
    assert person.keys() == {"name", "age"}
    assert isinstance(person["name"], str)
    assert isinstance(person["age"], int)


def test_schemas_can_be_nested_and_optional(llm, engine):
    # greedy, the model does not come to an end of a name unless it is given little room
    family = llm.with_structured_output(Nested).invoke(TEXT)
    assert isinstance(family.parent.age, int)
    assert len(family.children) <= 1


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [PersonDict, SCHEMA])
def test_objects_grow_in_a_stream(llm, engine, schema, method):
    structured = llm.with_structured_output(schema, method=method)
    objects = list(structured.stream(TEXT))
    assert len(objects) > 1
    assert objects[-1] == structured.invoke(TEXT)


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


# In JSON mode the grammar knows no keys; a model that is this small writes those that it has seen.
ASKED = [
    HumanMessage("Tell me a joke about cats, as JSON with the keys setup and punchline."),
    AIMessage('{"setup": "Why do cats purr?", "punchline": "They can."}'),
] * 3 + [HumanMessage("Tell me a joke about cats, as JSON with the keys setup and punchline.")]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema(), None])
async def test_an_object_is_parsed_into_its_schema_in_json_mode(llm, engine, schema, asynchronous):
    """As LangChain's `test_json_mode`, which leaves it to the model's wits to write the keys."""
    structured = llm.with_structured_output(schema, method="json_mode")
    joke = await call(structured, ASKED, asynchronous=asynchronous)
    if asynchronous:
        chunks = [chunk async for chunk in structured.astream(ASKED)]
    else:
        chunks = list(structured.stream(ASKED))
    kind = Joke if schema is Joke else dict
    assert all(isinstance(chunk, kind) for chunk in [joke, *chunks])
    assert dict(joke).keys() == {"setup", "punchline"}
    assert chunks[-1] == joke
    assert len(chunks) > 1


def test_any_object_is_an_answer_in_json_mode(llm, engine):
    with pytest.raises(StructuredOutputError):
        llm.with_structured_output(None, method="json_mode").invoke(ASKED, max_tokens=1)
    # another one than the schema's is not an instance, and the parser says so
    people = llm.with_structured_output(Person, method="json_mode", include_raw=True)
    result = people.invoke(ASKED)
    assert json.loads(result["raw"].text).keys() == {"setup", "punchline"}
    assert result["parsed"] is None
    assert isinstance(result["parsing_error"], OutputParserException)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Person, PersonDict])
@pytest.mark.parametrize("max_tokens", [1, 6, 14])
def test_an_answer_that_is_cut_off_is_an_error_that_keeps_its_text(
    llm, engine, schema, method, max_tokens
):
    short = llm.model_copy(update={"max_tokens": max_tokens})
    structured = short.with_structured_output(schema, method=method)
    said = (
        rf"^The answer was cut off after {max_tokens} tokens, before its Person.* was whole: raise"
    )
    with pytest.raises(StructuredOutputError, match=said) as caught:
        structured.invoke(TEXT)
    assert caught.value.llm_output
    assert caught.value.llm_output in str(caught.value)
    with pytest.raises(StructuredOutputError):
        list(structured.stream(TEXT))

    both = short.with_structured_output(schema, method=method, include_raw=True).invoke(TEXT)
    assert both["parsed"] is None
    assert isinstance(both["parsing_error"], StructuredOutputError)
    raw = both["raw"]
    assert raw.response_metadata.get("raw_text", raw.text) == caught.value.llm_output


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_the_error_says_which_branch_of_which_node_was_cut_off(
    llm, engine, method, asynchronous
):
    graph = StateGraph(State)
    person = ForkBranch(TEXT, llm.with_structured_output(Person, method=method, max_tokens=6))
    graph.add_node("panel", ForkNode(llm, {"who": person, "why": "Why?"}))
    graph.add_edge(START, "panel")
    said = "of node 'panel', branch 'who' was cut off after 6 tokens, before its Person was whole"
    with pytest.raises(StructuredOutputError, match=said):
        await call(graph.compile(), {"messages": []}, asynchronous=asynchronous)


def test_what_is_wrong_is_refused_at_once(llm):
    with pytest.raises(InvalidRequestError, match="method='xml'"):
        llm.with_structured_output(Person, method="xml")
    with pytest.raises(InvalidRequestError, match="schema=None"):
        llm.with_structured_output(None)
    with pytest.raises(InvalidRequestError, match="schema=3"):
        llm.with_structured_output(3)


def test_the_raw_message_comes_along(llm, engine):
    both = llm.with_structured_output(Person, include_raw=True).invoke(TEXT)
    assert both["parsing_error"] is None
    assert both["parsed"] == Person.model_validate_json(both["raw"].text)
    assert both["raw"].usage_metadata
