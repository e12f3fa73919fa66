"""LangChain's messages, tools and types, in the form that chat templates take."""
