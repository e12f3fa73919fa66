"""Messages in the order that lets branches share them."""

from __future__ import annotations

from langchain_core.messages import BaseMessage, HumanMessage

from langgraph_kvfork.checks import is_c_text, require
from langgraph_kvfork.order.join import join
from langgraph_kvfork.order.prompt import Messages, is_messages, to_messages


def arrange(context: Messages, role: str, question: str | None = None) -> list[BaseMessage]:
    """Return a branch's prompt: what it shares with others first, and what differs after that.

    Role and question end the prompt as a human's message, since many chat templates take a system
    message at the beginning only. If the context ends with a human's message they continue it,
    since many refuse two of those in a row. (`ForkNode` and `SharedPrefix` join messages likewise.)

    Example:
        ```python
        llm.invoke(arrange(document, "You are a lawyer.", "What are the risks?"))
        ```

    Args:
        context: What all branches read: text, which becomes a system message, or messages.
        role: Who the branch is.
        question: What it is asked, if not the same as in the context.

    Raises:
        InvalidRequestError: An argument is no text, or no messages.
    """
    require(is_messages(context), "context", context, "pass text or messages")
    require(is_c_text(role) and bool(role), "role", role, "pass text")
    is_valid = question is None or (is_c_text(question) and bool(question))
    require(is_valid, "question", question, "pass text, or leave it out")
    ending = role if question is None else f"{role}\n\n{question}"
    is_text = isinstance(context, str)
    shared = to_messages("context", [("system", context)] if is_text else context)
    return join(shared, [HumanMessage(ending)])
