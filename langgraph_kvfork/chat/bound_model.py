"""A chat model with bound arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding

from langgraph_kvfork.chat.structured_output import Schema, structured_output
from langgraph_kvfork.convert.tools import AnyTool


class BoundModel(RunnableBinding[LanguageModelInput, AIMessage]):
    """What `bind` and `with_config` return.

    LangChain's own hands `bind_tools` and `with_structured_output` to the model, which knows
    nothing of what was bound, so that it is lost.
    """

    def bind_tools(
        self, tools: Sequence[AnyTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """As the model's, with what is bound."""
        bound = cast(
            "RunnableBinding[LanguageModelInput, AIMessage]",
            self._model.bind_tools(tools, **kwargs),
        )
        return self.bind(**bound.kwargs)

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: str = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """As the model's, with what is bound."""
        return structured_output(
            self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs
        )

    @property
    def _model(self) -> Any:
        return self.bound

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return what LangChain stores it as: its own class, which it can load."""
        return [*cls.get_lc_namespace(), RunnableBinding.__name__]
