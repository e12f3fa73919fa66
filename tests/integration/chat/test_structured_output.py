"""Structured output on a real model: all schemas, all methods, and answers that are cut off."""

import functools
import json
import operator
import warnings
from decimal import Decimal
from typing import Literal, Optional

import jsonschema_rs
import pytest
from helpers import call
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, StateGraph
from pydantic import BaseModel, Field, field_validator
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from langgraph_kvfork import (
    ContextOverflowError,
    ForkBranch,
    ForkNode,
    InvalidRequestError,
    SchemaWarning,
    StructuredOutputError,
)

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


async def streamed(structured, *args, asynchronous, **kwargs):
    if asynchronous:
        return [item async for item in structured.astream(*args, **kwargs)]
    return list(structured.stream(*args, **kwargs))


def last_of_each(items):
    return {key: value for item in items for key, value in item.items()}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_the_raw_chunks_come_along_and_an_error_is_the_streams_end(
    llm, engine, method, asynchronous
):
    both = llm.with_structured_output(Person, method=method, include_raw=True)
    items = await streamed(both, TEXT, asynchronous=asynchronous)
    whole = last_of_each(items)
    assert whole["parsing_error"] is None
    assert isinstance(whole["parsed"], Person)
    assert whole["raw"].usage_metadata
    assert len([item for item in items if "raw" in item]) > 3
    for cut, reason in (({"stop": ["age"]}, "ended after"), ({"max_tokens": 12}, "was cut off")):
        items = await streamed(both, TEXT, asynchronous=asynchronous, **cut)
        whole = last_of_each(items)
        assert whole["parsed"] is None
        assert isinstance(whole["parsing_error"], StructuredOutputError)
        assert reason in str(whole["parsing_error"])
        assert whole["raw"].usage_metadata
    # what is no error of parsing is raised
    with pytest.raises(ContextOverflowError):
        await streamed(both, "word " * 9000, asynchronous=asynchronous)
    with pytest.raises(InvalidRequestError, match="temperature=-1"):
        await call(both, TEXT, asynchronous=asynchronous, temperature=-1)


@pytest.mark.parametrize("schema", [Person, PersonDict, UNTITLED])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_the_items_of_a_raw_stream_add_up_to_what_invoke_returns(llm, engine, schema, method):
    asked = ASKED if method == "json_mode" else TEXT
    both = llm.with_structured_output(schema, method=method, include_raw=True)
    invoked = both.invoke(asked)
    whole = functools.reduce(operator.add, both.stream(asked))
    assert whole.keys() == invoked.keys()
    assert whole["parsed"] == invoked["parsed"]
    assert whole["raw"].text == invoked["raw"].text
    assert type(whole["parsing_error"]) is type(invoked["parsing_error"])


class Defaults(BaseModel):
    """A person of whom little need be known."""

    name: str = ""
    age: int = 0


class DefaultsDict(TypedDict, total=False):
    """A person of whom little need be known."""

    name: str
    age: int


CUT_BY_A_STOP_STRING = [Defaults, DefaultsDict, Person, PersonV1, UNTITLED]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", CUT_BY_A_STOP_STRING)
async def test_an_answer_that_a_stop_string_cuts_is_an_error(
    llm, engine, schema, method, asynchronous
):
    asked = ASKED if method == "json_mode" else TEXT
    stop = ["punchline"] if method == "json_mode" else ["age"]
    structured = llm.with_structured_output(schema, method=method)
    with pytest.raises(StructuredOutputError, match="whole") as caught:
        await call(structured, asked, asynchronous=asynchronous, stop=stop)
    assert "{" in caught.value.llm_output
    # wherever the stop strings come from, and streamed as well
    for cut in (llm.model_copy(update={"stop": stop}), llm.bind(stop=stop)):
        with pytest.raises(StructuredOutputError, match="whole"):
            list(cut.with_structured_output(schema, method=method).stream(asked))
    both = llm.with_structured_output(schema, method=method, include_raw=True)
    result = await call(both, asked, asynchronous=asynchronous, stop=stop)
    assert result["parsed"] is None
    assert isinstance(result["parsing_error"], StructuredOutputError)
    assert "{" in result["parsing_error"].llm_output


@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_arguments_of_a_call_and_of_bind_reach_the_model(llm, engine, method, include_raw):
    options = {"method": method, "include_raw": include_raw}
    bound = llm.bind(max_tokens=3)
    tagged = bound.with_config(tags=["x"])
    runs = [
        lambda: llm.with_structured_output(Person, **options).invoke(TEXT, max_tokens=3),
        lambda: bound.with_structured_output(Person, **options).invoke(TEXT),
        lambda: tagged.with_structured_output(Person, **options).invoke(TEXT),
        lambda: llm.with_structured_output(Person, **options, max_tokens=3).invoke(TEXT),
        lambda: llm.with_structured_output(Person, **options).batch([TEXT], max_tokens=3)[0],
    ]
    for run in runs:
        if include_raw:
            result = run()
            assert result["raw"].usage_metadata["output_tokens"] == 3
            error = result["parsing_error"]
        else:
            with pytest.raises(StructuredOutputError) as caught:
                run()
            error = caught.value
        assert "after 3 tokens" in str(error)


def test_what_is_bound_stays_with_tools_and_config(llm, engine):
    seen = []

    class Tags(BaseCallbackHandler):
        def on_chat_model_start(self, *_, tags=None, **__):
            seen.append(tags)

    bound = llm.bind(max_tokens=2).with_config(tags=["mine"])
    answer = bound.bind_tools([Person]).invoke("Hello", config={"callbacks": [Tags()]})
    assert answer.usage_metadata["output_tokens"] == 2
    assert seen == [["mine"]]
    assert loads(dumps(llm.bind(stop=["x"]).kwargs)) == {"stop": ["x"]}


class Zip(BaseModel):
    """What no grammar of llama.cpp's converter holds."""

    code: str = Field(pattern=r"^\d{5}$")
    name: str = Field(pattern=r"[A-Z]", max_length=8)
    share: float = Field(ge=0, le=1)
    price: float = Field(gt=10, lt=20, multiple_of=0.5)
    count: int = Field(ge=3, le=9, multiple_of=3)
    kind: Literal["a", "b"]
    pair: tuple[int, bool]
    mail: str = Field(json_schema_extra={"format": "email"}, max_length=40)


class Tree(BaseModel):
    """A tree."""

    value: int = Field(ge=1, le=5)
    child: Optional["Tree"] = None


class Cat(BaseModel):
    """A cat."""

    type: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    """A dog."""

    type: Literal["dog"]
    name: str = Field(max_length=5)


class Owner(BaseModel):
    """Who has a pet."""

    pet: Cat | Dog = Field(discriminator="type")
    spent: Decimal | None = Field(None, ge=0, le=100)
    years: dict[str, int] = Field(max_length=2)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Zip, Tree, Owner])
def test_what_schemas_say_holds_however_random_the_answer(llm, engine, schema, method):
    wild = llm.model_copy(update={"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.05})
    structured = wild.with_structured_output(schema, method=method)
    answers = structured.batch([TEXT] * 4, max_tokens=400, return_exceptions=True)
    whole = [answer for answer in answers if not isinstance(answer, StructuredOutputError)]
    assert all(isinstance(answer, schema) for answer in whole)
    # cut off, or one of what only the check holds, which a SchemaWarning has named
    errors = [str(answer) for answer in answers if isinstance(answer, StructuredOutputError)]
    assert all("was cut off" in error or "does not match" in error for error in errors), errors
    assert len(whole) + len(errors) == len(answers)


# of an array, no grammar knows whether its items differ
ALIKE = {
    "title": "Alike",
    "type": "object",
    "properties": {
        "a": {"type": "array", "items": {"enum": [7]}, "minItems": 2, "maxItems": 2}
        | {"uniqueItems": True}
    },
    "required": ["a"],
}
NO_MATCH = r"does not match its Alike: .*unique.* at \['a'\]"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_what_does_not_hold_is_named_once_and_checked(llm, engine, method):
    schema = {**ALIKE, "description": method}  # another one, so that the warning comes
    with pytest.warns(SchemaWarning, match="uniqueItems cannot hold"):
        structured = llm.with_structured_output(schema, method=method)
    with pytest.raises(StructuredOutputError, match=NO_MATCH) as caught:
        structured.invoke(TEXT)
    assert "7" in caught.value.llm_output
    with pytest.raises(StructuredOutputError, match=NO_MATCH):
        list(structured.stream(TEXT))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = llm.with_structured_output(schema, method=method, include_raw=True).invoke(TEXT)
    assert isinstance(both["parsing_error"], StructuredOutputError)


def test_an_answer_to_a_response_format_is_checked(llm, engine):
    asked = {"type": "json_schema", "json_schema": {"schema": ALIKE}}
    with pytest.raises(StructuredOutputError, match=NO_MATCH):
        llm.invoke(TEXT, response_format=asked)
    with pytest.raises(StructuredOutputError, match=NO_MATCH):
        list(llm.stream(TEXT, response_format=asked))
    good = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    with pytest.raises(StructuredOutputError, match="before its Person was whole"):
        llm.invoke(TEXT, response_format=good, stop=["age"])
    # what is cut off by a limit says so itself
    answer = llm.invoke(TEXT, response_format=good, max_tokens=3)
    assert answer.response_metadata["finish_reason"] == "length"


class Even(BaseModel):
    """A number that only Python can check."""

    value: Literal[3, 5]

    @field_validator("value")
    @classmethod
    def _is_even(cls, value):
        if value % 2:
            raise ValueError("it is odd")
        return value


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_what_a_validator_refuses_is_an_error_with_the_text(llm, engine, method):
    with pytest.raises(StructuredOutputError, match="it is odd") as caught:
        llm.with_structured_output(Even, method=method).invoke(TEXT)
    assert "value" in caught.value.llm_output


def test_beside_tools_a_model_answers_with_the_schema_or_calls(llm, engine):
    asked = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    wild = llm.model_copy(update={"temperature": 1.5})
    bound = wild.bind_tools([Cat]).bind(response_format=asked, max_tokens=300)
    for answer in bound.batch([TEXT] * 6, return_exceptions=True):
        if isinstance(answer, Exception) or answer.response_metadata["finish_reason"] == "length":
            continue
        if answer.tool_calls:
            assert Cat(**answer.tool_calls[0]["args"])
        else:
            assert Person.model_validate_json(answer.text)
    forced = wild.bind_tools([Cat], tool_choice="Cat").invoke(TEXT, response_format=asked)
    assert [made["name"] for made in forced.tool_calls] == ["Cat"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": True}, "required": ["a"]},
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": False, "minItems": 1},
        {
            "type": "object",
            "properties": {"a": {"enum": [1]}, "b": {"$ref": "#"}},
            "required": ["a"],
        },
        {"$defs": {"a/b": {"enum": [1]}}, "properties": {"x": {"$ref": "#/$defs/a~1b"}}},
        {"$defs": {"n": {"$anchor": "n", "enum": [1]}}, "items": {"$ref": "#n"}, "minItems": 1},
    ],
)
def test_schemas_that_are_valid_are_taken(llm, engine, schema):
    structured = llm.with_structured_output(schema, max_tokens=200)
    try:
        answer = structured.invoke(TEXT)
    except StructuredOutputError as error:
        assert "was cut off" in str(error)  # noqa: PT017 - a small model may not come to an end
    else:
        jsonschema_rs.validate(schema, answer)
