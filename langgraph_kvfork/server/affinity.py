"""How a router in front of replicas is told which requests belong together."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Key:
    """What a request has for a router.

    Attributes:
        body: In its body.
        headers: Among its headers.
    """

    body: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Affinity:
    """Which requests go to which replica.

    Attributes:
        header: The header that the router reads; None: none.
        body_key: The key of a request's body that it reads; None: none.
        replicas: How many replicas there are.
        most: How many branches of a fan-out go to one replica at most; None: all.
    """

    header: str | None = None
    body_key: str | None = None
    replicas: int = 1
    most: int | None = None

    @property
    def is_used(self) -> bool:
        """Whether requests have a key at all."""
        return bool(self.header or self.body_key)

    def shares(self, n: int) -> list[int]:
        """Return which share of a fan-out each of its `n` branches is in, from 0 on.

        Shares are as few as `most` allows, at most one a replica, and equally large.
        """
        n_shares = 1 if self.most is None else min(-(-n // self.most), self.replicas)
        return [i * n_shares // n for i in range(n)]

    def of(self, key: str, share: int) -> Key:
        """Return what the requests of a share have."""
        if not key:
            return Key()
        value = f"kvfork-{key}" + (f"-{share}" if share else "")
        return Key(
            {self.body_key: value} if self.body_key else {},
            {self.header: value} if self.header else {},
        )
