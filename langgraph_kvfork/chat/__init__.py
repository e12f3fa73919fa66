"""The chat model."""
