"""The migration table says what the code does."""

import re
from pathlib import Path

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from pydantic import ValidationError

from langgraph_kvfork import ChatKVFork
from langgraph_kvfork.chat.other_names import OTHER_NAMES

TEXT = (Path(__file__).parents[3] / "docs" / "migration.md").read_text(encoding="utf-8")
SECTIONS = dict(
    re.findall(r"^## From `(\w+)`.*?\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
)
TABLES = {
    name: re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    for name, section in SECTIONS.items()
}
ROWS = [(name, *row) for name, rows in TABLES.items() for row in rows]
# names of other programs, which have no table that is compared
OTHERS = re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT.split("\n## From other")[1], re.MULTILINE)
ROWS += [("other programs", *row) for row in OTHERS]
WHERE = {
    "ChatLlamaCpp": "langchain_community.chat_models.llamacpp",
    "ChatOllama": "langchain_ollama.chat_models",
}


def test_there_is_a_table_for_each_with_no_name_twice():
    assert TABLES.keys() == WHERE.keys()
    for rows in TABLES.values():
        names = [name for name, _ in rows]
        assert len(names) == len(set(names)) > 25


@pytest.mark.parametrize("kind", WHERE)
def test_it_has_every_argument(kind):
    module = pytest.importorskip(WHERE[kind], reason="it is compared where that is installed")
    # verbose is LangChain's own, with another default
    own = getattr(module, kind).model_fields.keys() - BaseChatModel.model_fields.keys()
    assert {name for name, _ in TABLES[kind]} - {"verbose"} == own


@pytest.mark.parametrize(("kind", "name", "here"), ROWS)
def test_what_is_the_same_is_an_argument_and_what_is_not_is_refused_by_name(kind, name, here):
    if name in ChatKVFork.model_fields:
        assert f"`{name}`" in here
        assert name not in OTHER_NAMES
        return
    with pytest.raises(ValidationError) as refusal:
        ChatKVFork(model_path="model.gguf", **{name: None})
    assert f"ChatKVFork has no argument {name!r}: {OTHER_NAMES[name]}." in str(refusal.value)
    # the refusal names what the table names
    named = set(re.findall(r"\w+", OTHER_NAMES[name]))
    assert all(own in named for own in names_in(here)), named


def names_in(here):
    """Names in a cell's backticks that a ChatKVFork has."""
    return [name for name in re.findall(r"`(\w+)`", here) if has(name)]


def has(name):
    return name in ChatKVFork.model_fields or hasattr(ChatKVFork, name)


@pytest.mark.parametrize(("kind", "name", "here"), ROWS)
def test_names_and_defaults_are_right(kind, name, here):
    names = re.findall(r"`([a-z]\w+)`", here)
    assert all(map(has, names)), names
    assert names or here.startswith(("nothing: ", "gone from llama.cpp"))
    default = re.search(r"default `([^`]+)`", here)
    if default:
        *_, described = re.findall(r"`([a-z]\w+)`", here[: default.start()])
        assert repr(ChatKVFork.model_fields[described].default) == default[1]


def test_no_hint_is_left_over():
    assert {name for _, name, _ in ROWS if name not in ChatKVFork.model_fields} == set(OTHER_NAMES)
