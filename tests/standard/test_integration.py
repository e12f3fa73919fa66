"""LangChain's integration tests for chat models, on SmolLM2.

All that the model has is declared. It is too small for some tests, which ask for something that
only a model of more wits says; those are marked, and tests/integration forces the same shapes.
"""

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langgraph_kvfork import ChatKVFork


class TestChatKVFork(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatKVFork

    @property
    def chat_model_params(self):
        return {"n_ctx": 8192, "temperature": 0, "max_tokens": 250}

    @property
    def structured_output_kwargs(self):
        # greedy, so small a model repeats itself without end in a text that is not limited
        return {"repeat_penalty": 1.1}

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_anthropic_inputs(self):
        return False  # they have images

    @property
    def supports_model_override(self):
        return False  # an engine has one model

    @property
    def supported_usage_metadata_details(self):
        details = ["cache_read_input", "cache_creation_input"]
        return {"invoke": details, "stream": details}

    def invoke_with_cache_read_input(self, *, stream=False):
        self.invoke_with_cache_creation_input(stream=stream)
        return self.invoke_with_cache_creation_input(stream=stream)

    def invoke_with_cache_creation_input(self, *, stream=False):
        llm = self.chat_model_class(**self.chat_model_params, streaming=stream)
        return llm.invoke("How many legs has a cat?", max_tokens=4)

    @pytest.mark.xfail(
        reason="too small a model: it does not write the keys that it is told to write; forced in "
        "tests/integration/test_structured_output.py"
    )
    def test_json_mode(self, model):
        super().test_json_mode(model)

    @pytest.mark.xfail(
        reason="too small a model: it does not call a tool unless it must; forced in "
        "tests/integration/test_agent.py"
    )
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_agent_loop(self, model):
        super().test_agent_loop(model)
