"""Nodes and middleware for graphs."""
