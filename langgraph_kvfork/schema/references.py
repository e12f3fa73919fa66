"""Where the references of a schema lead, within its document (JSON Schema 2020-12, section 8.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias, Union
from urllib.parse import unquote, urljoin

from langgraph_kvfork.errors import InvalidRequestError

_Schema: TypeAlias = Union[dict[str, Any], bool]  # noqa: UP007


class References:
    """The parts of a document, by the names that references may use.

    A reference is relative to the `$id` of the part that it stands in, which is known by the part
    itself: shapes and grammars pass on the document's own.

    Args:
        root: The document.
    """

    def __init__(self, root: _Schema) -> None:
        self._parts: dict[str, Any] = {"": root}
        self._bases: dict[int, str] = {}
        self._read(root, "")

    def target(self, schema: dict[str, Any], reference: str) -> _Schema:
        """Return the part that a reference leads to.

        Args:
            schema: The part of the document that it stands in.
            reference: Its text.

        Raises:
            InvalidRequestError: It leads nowhere in the document.
        """
        found = self.find(schema, reference)
        if not isinstance(found, (dict, bool)):
            raise InvalidRequestError(
                f"$ref={reference!r} is not possible: it leads to nothing in its schema; pass the "
                "place of one of its parts, such as #/$defs/name."
            )
        return found

    def find(self, schema: dict[str, Any], reference: str) -> Any:
        """Return what `target` does, or whatever else the document has there; None: nothing."""
        uri = _joined(self._bases.get(id(schema), ""), reference)
        base, _, fragment = uri.partition("#")
        if fragment and not fragment.startswith("/"):
            return self._parts.get(uri)
        found = self._parts.get(base)
        for name in unquote(fragment).split("/")[1:]:
            found = _part(found, name.replace("~1", "/").replace("~0", "~"))
        return found

    def _read(self, value: Any, base: str) -> None:
        if isinstance(value, dict):
            name = value.get("$id", value.get("id"))
            if isinstance(name, str):
                base = _joined(base, name).removesuffix("#")
                self._parts.setdefault(base, value)
            self._bases[id(value)] = base
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(value.get(keyword), str):
                    self._parts.setdefault(f"{base}#{value[keyword]}", value)
        for part in _below(value):
            self._read(part, base)


def _joined(base: str, reference: str) -> str:
    # urljoin knows no URNs
    return base + reference if reference.startswith("#") else urljoin(base, reference)


def _below(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [p for k, p in value.items() if k not in ("const", "enum", "default", "examples")]
    return value if isinstance(value, list) else ()


def _part(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
        return value[int(name)]
    return None
