"""Answers with a schema that are not whole, or that do not match it."""

from __future__ import annotations

from langchain_core.messages import BaseMessage
from langchain_core.runnables import ensure_config

from langgraph_kvfork.chat.errors import StructuredOutputError
from langgraph_kvfork.hooks.place import node_path
from langgraph_kvfork.schema.check import Check, parse_json


def check_answer(message: BaseMessage, title: str, check: Check) -> None:
    """Refuse an answer whose text is not the whole of a JSON value that matches a schema.

    Raises:
        StructuredOutputError: It is such a one.
    """
    try:
        value = parse_json(str(message.text))
    except ValueError as error:
        raise not_whole(message, title, str(error)) from error
    if mismatch := check(value):
        raise no_match(text_of(message), title, mismatch)


def text_of(message: BaseMessage) -> str:
    """Return all that the model said; what could not be read is not in the message's text."""
    raw: str = message.response_metadata.get("raw_text", "")
    if raw:
        return raw
    calls = getattr(message, "tool_calls", None) or getattr(message, "invalid_tool_calls", None)
    return str(message.text) or (str(calls[0]["args"]) if calls else "")


def not_whole(message: BaseMessage, title: str, reason: str) -> StructuredOutputError:
    """Return the error for an answer that ended too early."""
    text = text_of(message)
    usage = getattr(message, "usage_metadata", None)
    tokens = f" after {usage['output_tokens']:,} tokens" if usage else ""
    if message.response_metadata.get("finish_reason") == "length":
        what = (
            f"was cut off{tokens}, before its {title} was whole: raise "
            "max_tokens, for all calls or, with llm.with_structured_output(..., max_tokens=...), "
            "for these alone; or n_ctx, if the context is full; or ask for less"
        )
    else:
        what = (
            f"ended{tokens}, before its {title} was whole ({reason}): leave out stop strings "
            "that it may contain, and a grammar or logit_bias that ends it early"
        )
    return StructuredOutputError(
        f"The answer{_place()} {what}. It is, so far: {text}", llm_output=text
    )


def no_match(text: str, title: str, reason: str) -> StructuredOutputError:
    """Return the error for an answer that is whole, but another than was asked for."""
    return StructuredOutputError(
        f"The answer{_place()} does not match its {title}: {reason}. Ask again, or ask for less: "
        f"not all that a schema can say holds while an answer is generated. It is: {text}",
        llm_output=text,
    )


def _place() -> str:
    """Return whose answer it is, for a sentence; outside of a graph and a `ForkNode`, nothing."""
    metadata = ensure_config().get("metadata", {})
    names = {"node": node_path(metadata), "branch": metadata.get("kvfork_branch")}
    place = ", ".join(f"{kind} {name!r}" for kind, name in names.items() if name)
    return f" of {place}" if place else ""
