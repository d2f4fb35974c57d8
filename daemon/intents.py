"""Intents: notes of operations over several daemons, written before the first of them is asked.

An intent is (kind, state, fields) under a random name. It exists as long as anything of its operation may be
undone or unfinished somewhere; a daemon that starts finds those of its earlier run and finishes or undoes them.
"""

import os
from typing import Any, NamedTuple

import msgpack

from gkfs.daemon import keys
from gkfs.daemon.store import MetadataStore

NAME_BYTES = 16


class Intent(NamedTuple):
    """One intent as stored; *state* says which steps may have been done."""

    name: bytes
    kind: str
    state: str
    fields: list[Any]


def new_name() -> bytes:
    """A name that no intent has ever had."""
    return os.urandom(NAME_BYTES)


def put(store: MetadataStore, intent: Intent) -> None:
    """Write *intent*, or its new state, with the next commit."""
    store.put(keys.intent(intent.name), msgpack.packb([intent.kind, intent.state, intent.fields]))


def delete(store: MetadataStore, name: bytes) -> None:
    """Remove an intent with the next commit: nothing of it is left to do."""
    store.delete(keys.intent(name))


def load(store: MetadataStore, kind: str) -> list[Intent]:
    """All intents of one *kind*."""
    found: list[Intent] = []
    for page in store.pages(*keys.table(keys.INTENTS)):
        for key, value in page:
            stored_kind, state, fields = msgpack.unpackb(value)
            if stored_kind == kind:
                found.append(Intent(key[1:], kind, state, fields))
    return found
