"""How large a store may be, in words."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from langgraph_kvfork.checks import is_number, require

_UNITS = {
    "": 1,
    **{f"{prefix}B": 1000**i for i, prefix in enumerate(("", "K", "M", "G", "T"))},
    **{f"{prefix}IB": 1024**i for i, prefix in enumerate(("K", "M", "G", "T"), 1)},
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


DEFAULT_SIZE = "10GB"


def size_bytes(name: str, size: object) -> int:
    """Return a size in bytes.

    Args:
        name: The argument, for the message.
        size: A number of bytes, or text such as "500MB", "20GB" (of 1,000s) or "8GiB" (of 1,024s).

    Raises:
        InvalidRequestError: It is no such thing, or nothing could be kept in it.
    """
    bytes_ = _bytes(size)
    remedy = 'give bytes from 1 on, or text such as "500MB", "20GB" or "8GiB"'
    require(bytes_ is not None and 1 <= bytes_ < 2**63, name, size, remedy)
    assert bytes_ is not None
    return int(bytes_)


def _is_possible(size: int | str | None) -> int | str | None:
    if size is not None:
        size_bytes("cache_size", size)
    return size


StoreSize = Annotated[int | str | None, AfterValidator(_is_possible)]
"""What `size_bytes` takes; None: the default."""


def _bytes(size: object) -> float | None:
    if is_number(size):
        return size if float(size).is_integer() else None  # type: ignore[arg-type, return-value]
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    unit = None if match is None else _UNITS.get(match[2].upper())
    return None if match is None or unit is None else float(match[1]) * unit
