"""The chat model on an OpenAI-compatible server, and how a fan-out reaches it so that it shares."""
