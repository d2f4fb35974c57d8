"""Who has called and not proved yet that he may: how many there may be, and who goes when there is one more.

It is the oldest of the address that has most of them, so that others are served on, whoever knocks how often.
"""

from collections import Counter
from typing import Generic, TypeVar

K = TypeVar("K")


class Strangers(Generic[K]):
    """Connections on which the caller is to prove who he is."""

    def __init__(self, most: int) -> None:
        """*most*: how many there may be."""
        self._most = most
        self._addresses: dict[K, str] = {}  # oldest first
        self._of_each: Counter[str] = Counter()  # the same, by address

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def all(self) -> list[K]:
        """All of them, the oldest first."""
        return list(self._addresses)

    @property
    def are_too_many(self) -> bool:
        """Whether there is no room for one more."""
        return len(self._addresses) >= self._most

    def add(self, one: K, address: str) -> None:
        """*one* has called, from *address*."""
        self._addresses[one] = address
        self._of_each[address] += 1

    def discard(self, one: K) -> None:
        """He is known now, or gone."""
        address = self._addresses.pop(one, None)
        if address is not None:
            self._of_each[address] -= 1
            if not self._of_each[address]:
                del self._of_each[address]

    def take_one(self) -> K:
        """Who has to go. There must be one."""
        address = max(self._of_each, key=self._of_each.__getitem__)
        one = next(one for one, whose in self._addresses.items() if whose == address)
        self.discard(one)
        return one
