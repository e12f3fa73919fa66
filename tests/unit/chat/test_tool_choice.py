"""Which tools a call must choose from, in the forms of LangChain and of providers."""

import pytest

from langgraph_kvfork import InvalidRequestError
from langgraph_kvfork.convert.tools import chosen_tools


def tool(name):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


TOOLS = [tool("add"), tool("sub"), tool("any")]


def names(schemas):
    return None if schemas is None else [schema["function"]["name"] for schema in schemas]


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        (None, "auto"),
        (False, "auto"),
        ("auto", "auto"),
        ({"type": "auto"}, "auto"),
        ({"auto": {}}, "auto"),
        ({"function_calling_config": {"mode": "AUTO"}}, "auto"),
        ("none", "none"),
        ({"type": "none"}, "none"),
        ({"function_calling_config": {"mode": "NONE"}}, "none"),
        (True, "required"),
        ("any", "required"),
        ("required", "required"),
        ({"type": "any"}, "required"),
        ({"type": "required"}, "required"),
        ({"any": {}}, "required"),
        ({"function_calling_config": {"mode": "ANY"}}, "required"),
    ],
)
def test_any_call_or_none(choice, kind):
    tools = chosen_tools(TOOLS, choice)
    assert (tools.choice, tools.forced, names(tools.schemas)) == (kind, None, ["add", "sub", "any"])


@pytest.mark.parametrize(
    "choice",
    [
        "sub",
        {"type": "function", "function": {"name": "sub"}},
        {"type": "function", "name": "sub"},
        {"function": {"name": "sub"}},
        {"type": "tool", "name": "sub"},
        {"tool": {"name": "sub"}},
        {"name": "sub"},
    ],
)
def test_one_tool_by_its_name(choice):
    tools = chosen_tools(TOOLS, choice)
    assert (tools.choice, tools.forced) == ("required", TOOLS[1])


def test_a_tool_whose_name_is_a_word():
    assert chosen_tools(TOOLS, {"type": "tool", "name": "any"}).forced == TOOLS[2]


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [tool("sub"), {"type": "function", "name": "add"}],
                },
            },
            "required",
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "sub"}, {"name": "add"}],
            },
            "auto",
        ),
        (
            {
                "function_calling_config": {
                    "mode": "ANY",
                    "allowed_function_names": ["sub", "add"],
                }
            },
            "required",
        ),
    ],
)
def test_some_of_the_tools_can_be_called_and_the_prompt_has_all(choice, kind):
    tools = chosen_tools(TOOLS, choice)
    assert (tools.choice, names(tools.schemas)) == (kind, ["sub", "add"])
    assert names(tools.in_prompt) == ["add", "sub", "any"]
    assert names(chosen_tools(TOOLS, choice, prompt_tools=TOOLS[:1]).in_prompt) == ["add"]


def test_anthropics_way_to_say_one_call_at_a_time():
    choice = {"type": "any", "disable_parallel_tool_use": True}
    assert chosen_tools(TOOLS, choice).parallel is False
    assert chosen_tools(TOOLS, choice, parallel=True).parallel is True
    assert chosen_tools(TOOLS, {"type": "any"}).parallel is None


@pytest.mark.parametrize(
    "choice",
    [
        "mul",
        "",
        0,
        3,
        [],
        ["add"],
        {},
        {"type": "tool"},
        {"type": "tool", "name": "mul"},
        {"type": "function", "function": {}},
        {"type": "web_search"},
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "tools": [{"name": "mul"}]},
        {"type": "allowed_tools", "tools": []},
        {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["mul"]}},
        {"function_calling_config": {"mode": "MAYBE"}},
    ],
)
def test_what_is_no_choice_is_refused(choice):
    with pytest.raises(InvalidRequestError, match=r"^tool_choice=.*pass auto, none, any or the"):
        chosen_tools(TOOLS, choice)
