"""What a chat model needs so that a `PrefillNode` can compute a prefix with it, ahead of calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import RunnableConfig

from langgraph_kvfork.branches.events import PrefillProgress, Usage


class ComputesAhead(ABC):
    """A chat model that can compute messages ahead, so that later prompts find them."""

    @property
    @abstractmethod
    def _model_name(self) -> str:
        """The model's name, for reports."""

    @abstractmethod
    def _prefill(
        self,
        messages: LanguageModelInput,
        config: RunnableConfig,
        on_progress: Callable[[PrefillProgress], None] | None,
        kwargs: dict[str, Any],
        *,
        save: bool,
    ) -> Usage:
        """Compute messages ahead.

        Args:
            messages: What later prompts begin with.
            config: The run's.
            on_progress: Called now and then, where the model knows its progress.
            kwargs: Arguments of the later calls.
            save: Return when the model's store has them too.
        """

    @abstractmethod
    async def _aprefill(
        self,
        messages: LanguageModelInput,
        config: RunnableConfig,
        on_progress: Callable[[PrefillProgress], None] | None,
        kwargs: dict[str, Any],
        *,
        save: bool,
    ) -> Usage:
        """As `_prefill`, without blocking the event loop."""

    @abstractmethod
    def _check_save(self, kwargs: dict[str, Any]) -> None:
        """Refuse to save where there is no store, or nothing is kept for later.

        Args:
            kwargs: Arguments of the later calls.

        Raises:
            InvalidRequestError: The model has no store, or its calls share nothing.
        """
