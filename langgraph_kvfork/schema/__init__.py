"""JSON schemas: which are possible, the grammars that hold them, and the check of an answer."""
