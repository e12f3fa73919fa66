"""Arguments as annotated types: what each may be, and what to pass instead.

`ChatKVFork`, `EngineParams` and `Request` declare their fields with these types, and pydantic
checks them. So each range is written once, and each refusal is the same sentence wherever it is
found: the argument, its value, the remedy.

Pydantic converts what a model's constructor gets (text to numbers, as it does for any model).
`checked` converts nothing but whole numbers to floats: there, text is no number, and True is not 1.

A range that depends on the model, or on another argument, is checked where that is known.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
)

from langgraph_kvfork.checks import is_c_text, is_json_object, shown
from langgraph_kvfork.errors import InvalidRequestError


@dataclass(frozen=True)
class Remedy:
    """What to pass instead of a value that is refused, in the annotation of an argument."""

    text: str


def _fails_unless(condition: bool) -> None:
    """Refuse a value in a validator; the sentence comes from its `Remedy`."""
    if not condition:
        raise ValueError


def absolute_path(path: object, info: ValidationInfo) -> str:
    """Return a path that the working directory does not change; links stay as they are.

    Args:
        path: A string or a path object; "~" is a home directory.
        info: Which argument it is.

    Raises:
        ValueError: It is no path.
        InvalidRequestError: It is relative, and there is no working directory.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    _fails_unless(is_c_text(text) and bool(text))
    assert isinstance(text, str)
    text = os.path.expanduser(text)
    if os.path.isabs(text):
        return text
    try:
        # not normalized: behind a link, ".." is another folder
        return os.path.join(os.getcwd(), text)
    except FileNotFoundError:
        raise InvalidRequestError(
            f"{info.field_name}={path!r} is not possible, since the working directory is gone: "
            "pass an absolute path."
        ) from None


def _path_or_none(path: object, info: ValidationInfo) -> str:
    return "" if isinstance(path, str) and not path else absolute_path(path, info)


def _type_of_cells(value: object) -> object:
    _fails_unless(value is None or (isinstance(value, (str, int)) and not isinstance(value, bool)))
    _fails_unless(not isinstance(value, str) or bool(value.strip()))
    return value


def _template(text: str) -> str:
    # text without any Jinja in it would make the same prompt of all messages
    _fails_unless(is_c_text(text) and (text == "chatml" or "{" in text))
    return text


def _c_text(text: str) -> str:
    _fails_unless(is_c_text(text) and bool(text.strip()))
    return text


def _stop_string(text: str) -> str:
    _fails_unless(is_c_text(text) and bool(text))
    return text


def _not_nan(number: float) -> float:
    _fails_unless(not math.isnan(number))
    return number


def _not_zero(number: int) -> int:
    _fails_unless(number != 0)
    return number


def _json_object(value: dict[str, Any]) -> dict[str, Any]:
    _fails_unless(is_json_object(value))
    return value


_INT_MAX = 2**31 - 1
"""What a C int holds."""

RANDOM_SEED = 0xFFFFFFFF
"""`LLAMA_DEFAULT_SEED`: a random one; for a fork: keep the random state."""

Count = Annotated[int, Field(ge=0, le=_INT_MAX)]
PositiveCount = Annotated[int, Field(ge=1, le=_INT_MAX)]
Number = Annotated[float, Field(allow_inf_nan=False)]
PositiveOrZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Switch = Annotated[bool, Remedy("pass True or False")]
OptionalSwitch = Annotated[bool | None, Remedy("pass True or False, or None")]

# of an engine

ModelPath = Annotated[
    str | os.PathLike[str],
    BeforeValidator(absolute_path),
    Remedy("pass the path of a GGUF file"),
]
AdapterPath = Annotated[
    Annotated[str | os.PathLike[str], BeforeValidator(absolute_path)] | None,
    Remedy("pass the path of a LoRA adapter in GGUF form, or None"),
]
ContextSize = Annotated[
    Count | None,
    Remedy("pass a count of tokens, 0 for the training context, or None for what fits"),
]
BatchSize = Annotated[PositiveCount, Remedy("pass a count of tokens from 1 on")]
Threads = Annotated[
    Annotated[int, Field(ge=1, le=512)] | None,
    Remedy("pass 1 to 512 threads, or None for one per core"),
]
SequenceCount = Annotated[
    Annotated[int, Field(ge=1, le=256)] | None, Remedy("pass 1 to 256 sequences, or None")
]
GpuLayers = Annotated[
    Annotated[int, Field(ge=-1, le=_INT_MAX)] | None,
    Remedy("pass a count, -1 for all, or None for what fits"),
]
GpuIndex = Annotated[Count, Remedy("pass the index of a GPU")]
SplitMode = Annotated[Annotated[int, Field(ge=0, le=3)] | None, Remedy("pass 0 to 3, or None")]
TensorSplit = Annotated[
    # a list is as good as a tuple, also where nothing else is converted
    Annotated[tuple[PositiveOrZero, ...], Field(strict=False)] | None,
    Remedy("pass a list of numbers from 0 on, or None"),
]
CellType = Annotated[
    str | int | None,
    BeforeValidator(_type_of_cells),
    Remedy('pass a name such as "f16", or None'),
]
RopeScaling = Annotated[Annotated[int, Field(ge=-1, le=3)] | None, Remedy("pass -1 to 3, or None")]
RopeNumber = Annotated[Number | None, Remedy("pass a finite number, or None for the model's own")]
OriginalContext = Annotated[Count | None, Remedy(f"pass 0 to {_INT_MAX}, or None")]
TemplateSource = Annotated[
    Annotated[str, AfterValidator(_template)] | None,
    Remedy(
        'pass the Jinja source of a template (other than "chatml", names are not known), or None '
        "for the model's own"
    ),
]
AdapterScale = Annotated[Number, Remedy("pass a finite number; 0 switches it off")]
StorePath = Annotated[
    Annotated[str | os.PathLike[str], BeforeValidator(_path_or_none)] | None,
    Remedy('pass the path of a folder, "" for no store, or None'),
]
MaxGap = Annotated[PositiveOrZero, Remedy("pass milliseconds, or 0 for no limit")]

# of a request

MaxTokens = Annotated[
    Annotated[int, Field(ge=-1, le=_INT_MAX)] | None,
    Remedy("pass a count from 0 on, or None or -1 to go on until the context is full"),
]
Temperature = Annotated[PositiveOrZero, Remedy("pass 0 (greedy) or more")]
TopK = Annotated[int, Field(ge=-1, le=_INT_MAX), Remedy("pass 1 or more, or 0 for off")]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Remedy("pass 0 to 1")]
RepeatPenalty = Annotated[
    float,
    Field(ge=1e-6, allow_inf_nan=False),
    Remedy("pass a number above 0, or 1 for off"),
]
Penalty = Annotated[Number, Remedy("pass a finite number, or 0 for off")]
LastTokens = Annotated[Count, Remedy("pass a count from 0 on")]
Seed = Annotated[
    Annotated[int, Field(ge=-1, lt=RANDOM_SEED)] | None,
    Remedy(f"pass 0 to {RANDOM_SEED - 1}, or None for a random one"),
]
LogitBias = Annotated[
    Mapping[Count, Annotated[float, AfterValidator(_not_nan)]],
    Remedy("pass a dict from token ids to the numbers to add to their logits"),
]
StopStrings = Annotated[
    Sequence[Annotated[str, AfterValidator(_stop_string)]],
    Remedy("pass a list of strings, none of them empty"),
]
TopCount = Annotated[Count | None, Remedy("pass a count from 0 on, or None")]
Grammar = Annotated[
    Annotated[str, AfterValidator(_c_text)] | None,
    Remedy("pass GBNF text with a rule named root, or None for free text"),
]

Keep = Annotated[bool | Literal["prefix"], Remedy('pass True, "prefix" or False')]
Namespace = Annotated[
    Annotated[str, AfterValidator(_stop_string)] | None, Remedy("pass a name, or None")
]

# of a chat model alone

AnswerTokens = Annotated[
    Annotated[int, Field(ge=-1, le=_INT_MAX), AfterValidator(_not_zero)] | None,
    Remedy(
        "pass 1 or more, or None or -1 to go on until the context is full; to prefill only, call "
        "prefill()"
    ),
]
LogprobsSwitch = Annotated[bool, Remedy("pass True or False, and a count as top_logprobs")]
Timeout = Annotated[PositiveOrZero | None, Remedy("pass seconds from 0 on, or None")]
TemplateVariables = Annotated[
    dict[str, Any],
    AfterValidator(_json_object),
    Remedy("pass a dict from names in the template to values that JSON can hold"),
]


def checked(owner: type, values: Mapping[str, object]) -> dict[str, Any]:
    """Return arguments as their annotations ask, or refuse them.

    Args:
        owner: The class whose annotations say what the arguments may be.
        values: The arguments, by name. Without a conversion but of whole numbers to floats.

    Raises:
        InvalidRequestError: A value is not possible; the message names all that are not.
    """
    model = _strict(owner, tuple(values))
    try:
        found = model.__pydantic_validator__.validate_python(dict(values))
    except ValidationError as error:
        sentences = in_sentences(error, model, values)
        raise InvalidRequestError(" ".join(text for _, text in sentences)) from None
    return dict(vars(found))


@cache
def _strict(owner: type, names: tuple[str, ...]) -> type[BaseModel]:
    if issubclass(owner, BaseModel):
        hints = {name: field.rebuild_annotation() for name, field in owner.model_fields.items()}
    else:
        hints = get_type_hints(owner, include_extras=True)
    config = ConfigDict(strict=True, protected_namespaces=())
    fields: dict[str, Any] = {name: (hints[name], ...) for name in names}
    return create_model(owner.__name__, __config__=config, **fields)


def in_sentences(
    error: ValidationError, model: type[BaseModel], values: object
) -> list[tuple[dict[str, Any], str]]:
    """Return what pydantic found wrong, one sentence per argument: its name, value and remedy.

    What a validator raised with words of its own keeps these.

    Args:
        error: What pydantic raised.
        model: The class that has the arguments as fields.
        values: What was validated: a dict of arguments, or anything.

    Returns:
        The details of the first fault of each argument, as `ValidationError.errors` has them, and
        its sentence.
    """
    sentences: dict[str, tuple[dict[str, Any], str]] = {}
    details: list[dict[str, Any]] = [dict(found) for found in error.errors(include_url=False)]
    for found in details:
        # of the model as a whole, there is no argument
        argument = str(found["loc"][0]) if found["loc"] else ""
        if not argument or argument not in sentences:
            sentences[argument] = found, _sentence(found, argument, model, values)
    return list(sentences.values())


def _sentence(found: dict[str, Any], argument: str, model: type[BaseModel], values: object) -> str:
    context = found.get("ctx", {})
    if "sentence" in context:  # it was found here before
        return str(context["sentence"])
    raised = context.get("error")
    if isinstance(raised, Exception) and str(raised):
        return str(raised)
    reason = found["msg"][:1].lower() + found["msg"][1:]
    if not argument:
        return f"{shown(found['input'])} is no {model.__name__}: {reason}."
    remedy = _remedies(model).get(argument)
    if remedy and isinstance(values, Mapping) and argument in values:
        return f"{argument}={shown(values[argument])} is not possible: {remedy}."
    name = ".".join(map(str, found["loc"]))
    return f"{name}={shown(found['input'])} is not possible: {reason}."


@cache
def _remedies(model: type[BaseModel]) -> dict[str, str]:
    remedies = {}
    for name, field in model.model_fields.items():
        remedy = _remedy(field.rebuild_annotation())
        if remedy is not None:
            remedies[name] = remedies[field.alias or name] = remedy
    return remedies


def _remedy(annotation: object) -> str | None:
    """Return the remedy of a type, or of the first of its parts that has one."""
    parts = get_args(annotation)
    own = (part.text for part in parts if isinstance(part, Remedy))
    return next((text for text in (*own, *map(_remedy, parts)) if text is not None), None)
