"""Formats of strings, as patterns that only valid strings of each match."""

from __future__ import annotations

_DATE = (
    r"[1-9]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_HOURS = r"T(?:\d{1,4}H(?:\d{1,4}M(?:\d{1,4}S)?)?|\d{1,4}M(?:\d{1,4}S)?|\d{1,4}S)"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9]|-[A-Za-z0-9]){0,20}"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,4}}"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_H = r"[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join(
    [rf"(?:{_H}:){{7}}{_H}", rf"(?:{_H}:){{1,7}}:", rf":(?::{_H}){{1,7}}", "::"]
    + [rf"(?:{_H}:){{1,{7 - n}}}(?::{_H}){{1,{n}}}" for n in range(1, 7)]
)
_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*"
_SEGMENTS = r"(?:[A-Za-z0-9._~!$&'()*+,;=@/-]|%[0-9A-Fa-f]{2})*"
_MAILBOX = r"[A-Za-z0-9_+-]{1,20}(?:\.[A-Za-z0-9_+-]{1,20}){0,2}"
_TAIL = rf"(?:/{_PATH})?(?:\?{_PATH})?(?:#{_PATH})?"
_URI = (
    rf"[A-Za-z][A-Za-z0-9+.-]{{0,20}}://{_HOST}(?::[1-9]\d{{0,3}})?{_TAIL}"
    r"|(?:urn|mailto|tel):[A-Za-z0-9._@:+-]+"
)
_POINTER = r"(?:/(?:[A-Za-z0-9 ._-]|~[01])*)*"


def _uuid(version: str) -> str:
    hexes = "[0-9a-fA-F]"
    return rf"{hexes}{{8}}-{hexes}{{4}}-{version}{hexes}{{3}}-[89abAB]{hexes}{{3}}-{hexes}{{12}}"


FORMATS = {
    name: f"^(?:{pattern})$"
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"(?:{_DATE})T{_TIME}",
        "duration": rf"P(?:{_HOURS}|\d{{1,4}}D(?:{_HOURS})?|\d{{1,4}}W)",
        "email": rf"{_MAILBOX}@{_LABEL}\.{_HOST}",
        "idn-email": rf"{_MAILBOX}@{_LABEL}\.{_HOST}",
        "hostname": _HOST,
        "idn-hostname": _HOST,
        "ipv4": rf"(?:{_BYTE}\.){{3}}{_BYTE}",
        "ipv6": _IPV6,
        "uri": _URI,
        "iri": _URI,
        "uri-reference": rf"{_URI}|{_SEGMENTS}",
        "iri-reference": rf"{_URI}|{_SEGMENTS}",
        "uuid": _uuid(r"\d"),
        **{f"uuid{version}": _uuid(str(version)) for version in range(1, 9)},
        "json-pointer": _POINTER,
        "relative-json-pointer": rf"(?:0|[1-9]\d{{0,3}})(?:#|{_POINTER})",
    }.items()
}
"""By name. What has no entry here but is checked all the same: "regex", "uri-template"."""

ONLY_CHECKED = {"regex", "uri-template"}
