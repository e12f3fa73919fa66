"""The order of messages: what branches can share comes first."""
