"""Which server answers at an address, and what of a fan-out it can share: its own endpoints say.

| server | known by | what it says of itself |
|---|---|---|
| llama-server | `/props` has `build_info` | slots, context, model, whether it saves slots |
| SGLang | `/get_server_info` | version, schedule policy, whether it reports cached tokens |
| vLLM | `/version`, and `/v1/models` owned by "vllm" | version, context, model |

Anything else is "other": it is spoken to as OpenAI's API says, and nothing is held back for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from langgraph_kvfork.server.requests import Requests, ServerRefusedError

Kind: TypeAlias = Literal["llama-server", "vllm", "sglang", "other"]
KINDS = get_args(Kind)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself.

    Attributes:
        kind: Which it is.
        version: Its version, as it says it; "": it does not.
        model: The first model that it serves; "": it does not say.
        n_ctx: Most tokens of a prompt with its answer; None: it does not say.
        slots: How many requests a llama-server runs at a time; None: another server.
        shows_slots: Whether a llama-server says what its slots do.
        saves_slots: Whether a llama-server was started with `--slot-save-path`.
        schedule_policy: An SGLang server's; "": another server.
        reports_cache: Whether answers have `cached_tokens`; None: the server does not say, and the
            first answer will show it.
        has_metrics: Whether `/metrics` answers.
    """

    kind: Kind
    version: str = ""
    model: str = ""
    n_ctx: int | None = None
    slots: int | None = None
    shows_slots: bool = False
    saves_slots: bool = False
    schedule_policy: str = ""
    reports_cache: bool | None = None
    has_metrics: bool = False

    @property
    def shares_in_flight(self) -> bool:
        """Whether requests that come together share a prefix that none of them has computed yet."""
        return self.kind == "vllm" or (
            self.kind == "sglang" and self.schedule_policy.startswith("lpm")
        )

    @property
    def has_salt(self) -> bool:
        """Whether requests can be kept apart in its cache, by `cache_salt`."""
        return self.kind in ("vllm", "sglang")

    @property
    def cache_flag(self) -> str:
        """The flag that lets it report cached tokens; "": none is known."""
        flags = {"vllm": "--enable-prompt-tokens-details", "sglang": "--enable-cache-report"}
        return flags.get(self.kind, "")


async def find_facts(requests: Requests, kind: Kind | None = None) -> ServerFacts:
    """Ask a server what it is.

    Args:
        requests: Sends requests to it.
        kind: Which server it is, if that is known; None: find out.

    Raises:
        openai.APIConnectionError: Nobody answers.
        ServerRefusedError: The key is refused.
    """
    models = await _object(requests, "/v1/models")
    listed: list[Any] = models.get("data") or [{}]
    first: dict[str, Any] = listed[0] if isinstance(listed[0], dict) else {}
    model = str(first.get("id") or "")
    n_ctx = _count(first.get("max_model_len"))
    if kind in (None, "llama-server"):
        props = await _object(requests, "/props")
        if "build_info" in props or kind == "llama-server":
            return await _llama_server(requests, props, model)
    if kind in (None, "sglang"):
        info = await _object(requests, "/get_server_info")
        if "schedule_policy" in info or kind == "sglang":
            reports = info.get("enable_cache_report")
            return ServerFacts(
                "sglang",
                version=str(info.get("version") or ""),
                model=model,
                n_ctx=n_ctx or _count(info.get("context_length")),
                schedule_policy=str(info.get("schedule_policy") or ""),
                reports_cache=reports if isinstance(reports, bool) else None,
                has_metrics=bool(await requests.text("/metrics")),
            )
    if kind == "vllm" or (kind is None and first.get("owned_by") == "vllm"):
        version = await _object(requests, "/version")
        return ServerFacts(
            "vllm",
            version=str(version.get("version") or ""),
            model=model,
            n_ctx=n_ctx,
            has_metrics=bool(await requests.text("/metrics")),
        )
    return ServerFacts("other", model=model, n_ctx=n_ctx)


async def _llama_server(requests: Requests, props: dict[str, Any], model: str) -> ServerFacts:
    return ServerFacts(
        "llama-server",
        version=str(props.get("build_info") or ""),
        model=model,
        n_ctx=_count((props.get("default_generation_settings") or {}).get("n_ctx")),
        slots=_count(props.get("total_slots")) or 1,
        shows_slots=bool(props.get("endpoint_slots")),
        saves_slots=await _saves_slots(requests),
        reports_cache=True,
        has_metrics=bool(props.get("endpoint_metrics")),
    )


async def _saves_slots(requests: Requests) -> bool:
    """Return whether slots can be saved: an action that there is not is refused in two ways."""
    try:
        await requests.post("/slots/0?action=none", {})
    except ServerRefusedError as error:
        return error.status == 400
    return False


async def _object(requests: Requests, path: str) -> dict[str, Any]:
    """Return an endpoint's answer; nothing if it has no such endpoint."""
    try:
        answer = await requests.get(path)
    except ServerRefusedError as error:
        if error.status in (401, 403):
            raise
        return {}
    return answer if isinstance(answer, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
