"""LangChain's unit tests for chat models."""

from langchain_tests.unit_tests import ChatModelUnitTests

from langgraph_kvfork import ChatKVFork


class TestChatKVFork(ChatModelUnitTests):
    @property
    def chat_model_class(self):
        return ChatKVFork

    @property
    def chat_model_params(self):
        return {"model_path": "model.gguf"}
