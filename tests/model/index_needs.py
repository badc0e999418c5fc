"""For each rule of the index a short program that fails without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.model.index_world import Program, Step


def puts(who: str, what: str) -> list[Step]:
    """Writes some keys: `a1` sets a to 1, `a-` deletes it."""
    return [
        Step(who, "delete", key=word[0]) if word[1] == "-" else Step(who, "set", key=word[0], value=int(word[1]))
        for word in what.split()
    ]


def pushes(who: str, what: str, **options: Any) -> list[Step]:
    """Writes some keys and pushes them."""
    return [*puts(who, what), Step(who, "push", **options)]


def works(who: str, what: str) -> list[Step]:
    """Makes a fork, in which workers write some keys."""
    written = [
        Step(who, "work", key=word[0], value=None if word[1] == "-" else int(word[1])) for word in what.split()
    ]
    return [Step(who, "fork"), *written]


def does(who: str, *what: str) -> list[Step]:
    return [Step(who, each) for each in what]


def gets(who: str, key: str) -> Step:
    return Step(who, "get", key=key)


def beside(who: str, what: str, at: int, others: Sequence[Step], **options: Any) -> Step:
    return Step(who, what, at=at, meanwhile=tuple(others), **options)


SWEEP = does("a", "wait", "collect")
"""What no root has named for a day goes."""

DROPPED = [
    *pushes("a", "a- b2 c2"),
    *pushes("a", "f1"),
    *pushes("a", "f2"),
    *pushes("a", "f1"),
    *pushes("a", "b1 c1 d1", merging="all"),
]
"""Deletes a key, and lets its tombstone be dropped."""

NEEDED: dict[str, Program] = {
    "a flush takes the tail along": [*pushes("a", "a1 b1"), *pushes("a", "a2 c1")],
    "only neighbouring runs are joined": [
        *pushes("a", "a1 b1 c1"),
        *pushes("a", "a2 b2 c2"),
        *pushes("a", "a1 b1 c1"),
    ],
    "a range ends inside no slot of the lower run": [
        *pushes("a", "a1 b1 c1 d1 e1 f1 g1 h1"),
        *pushes("a", "c2 d2 e2 f2 g2", merging="some"),
    ],
    "rows outside of the slot do not count": [
        *pushes("a", "a1 b1 c1 d1 e1 f1 g1 h1"),
        *pushes("a", "c2 d2 e2 f2 g2", merging="some"),
    ],
    "an entry that is left without rows goes": [
        *pushes("a", "a1 b1 c1 d1 e1 f1 g1 h1"),
        *pushes("a", "a2 b2 c2 d2 f2", merging="some"),
    ],
    "a tombstone stays where a run below may have its key": [
        *pushes("a", "a1 b1 c1"),
        *pushes("a", "d1 e1 f1"),
        *pushes("a", "a- d2 e2"),
        *pushes("a", "f1"),
        *pushes("a", "f2"),
        *pushes("a", "f1"),
        *pushes("a", "b2 c2 d1"),
    ],
    "the floor rises to a tombstone that is dropped": [*pushes("a", "a1 b1 c1"), *DROPPED],
    "the floor of a replacement is its own commit": [
        *pushes("a", "a1 b1 c1"),
        gets("b", "a"),
        *puts("b", "a2"),
        *does("a", "new"),
        *pushes("a", "d1"),
        *does("b", "pull"),
    ],
    "a row that is moved has the number of the commit that moves it": [
        *pushes("a", "a3 b1 c1"),
        gets("b", "a"),
        *puts("b", "f1 a3"),
        *does("a", "compact"),
        *does("b", "pull"),
        *SWEEP,
        *does("b", "push"),
    ],
    "the floor of a restoration is its own commit": [
        *pushes("a", "a1 b1 c1"),
        *does("a", "keep"),
        *pushes("a", "a2 b2 c2"),
        gets("b", "a"),
        *puts("b", "a3"),
        *does("a", "restore"),
        *does("b", "pull"),
    ],
    "a restoration has a higher number than what it restores": [
        *pushes("a", "a1"),
        *does("a", "save"),
        *pushes("a", "a2"),
        *pushes("a", "a3"),
        *does("a", "keep", "rewind", "restore"),
        *pushes("a", "a1"),
    ],
    "a lookup reads the tail": [*pushes("a", "a1"), gets("b", "a")],
    "a lookup reads the base": [*pushes("a", "a1"), *does("b", "pull"), *pushes("a", "a2"), gets("b", "a")],
    "an answer is noted only at its base": [
        *pushes("a", "a1 b1 c1"),
        *does("b", "pull", "forget"),
        *puts("b", "a2"),
        beside("b", "push", 1, [*pushes("a", "a3"), *does("b", "pull")]),
    ],
    "from a base that is gone a reader moves on": [
        *pushes("a", "a1 b1 c1"),
        *does("b", "pull"),
        *pushes("a", "a2 b2 c2", merging="all"),
        *SWEEP,
        *does("b", "forget"),
        gets("b", "b"),
    ],
    "an iteration goes on at the base that there is": [
        *pushes("a", "a1 b1 c1 d1"),
        *puts("b", "e1"),
        beside("b", "keys", 6, does("b", "push")),
    ],
    "a base that is not known is looked up before it is left": [
        *pushes("a", "a1"),
        *puts("b", "a2"),
        *pushes("a", "a3"),
        *does("b", "pull"),
    ],
    "what was written beside a pull counts as late": [
        *pushes("a", "a1 b1 c1 d1"),
        *puts("b", "b2"),
        *pushes("a", "a2 b1 c2"),
        beside("b", "pull", 2, puts("b", "c1")),
    ],
    "what was learned beside a pull is forgotten": [
        *pushes("a", "a1 b1 c1 d1"),
        *puts("b", "b2"),
        *pushes("a", "a2 b1 c2"),
        *does("b", "forget"),
        beside("b", "pull", 4, [gets("b", "c"), *puts("b", "e1")]),
    ],
    "a base says what is there only at its own commit": [
        *pushes("a", "a1"),
        gets("b", "a"),
        *puts("b", "a2"),
        *does("a", "new"),
        *pushes("a", "a3"),
        *does("b", "pull", "push"),
    ],
    "a lost base is inferred only above the floor": [
        *pushes("a", "a1 b1 c1"),
        *does("b", "pull", "forget"),
        *puts("b", "a2"),
        *DROPPED,
        *SWEEP,
        *does("b", "pull", "push"),
    ],
    "nothing is inferred where commits do not lead on": [
        *pushes("a", "a1 b1 c1"),
        *does("a", "save"),
        *pushes("a", "a2 b2 c2", merging="all"),
        *does("b", "pull", "forget"),
        *puts("b", "a3"),
        *pushes("a", "a1 b1 c1", merging="all"),
        *SWEEP,
        *does("b", "pull", "rewind", "pull", "push"),
    ],
    "what the remote has is known before it is pushed over": [*pushes("a", "a1"), *pushes("b", "a2")],
    "the history says whether commits lead on": [
        *pushes("a", "a1"),
        *does("a", "save"),
        *pushes("a", "a2"),
        gets("b", "a"),
        *puts("b", "a3"),
        *does("a", "rewind"),
        *pushes("c", "b1"),
        *does("b", "pull"),
    ],
    "below the floor everything is unknown": [
        *pushes("a", "a1 b1 c1"),
        gets("b", "a"),
        *puts("b", "a2"),
        *DROPPED,
        *does("b", "pull"),
    ],
    "a base that has moved is read anew": [
        *pushes("a", "a1 b1 c1"),
        gets("b", "a"),
        *puts("b", "a3"),
        *pushes("a", "a2 b2 c2"),
        *does("b", "forget"),
        beside("b", "pull", 2, [*pushes("a", "a1 b1 c1"), *does("b", "pull")]),
    ],
    "what was sent is kept when its key is written again": [
        *pushes("a", "a1", fate="unanswered"),
        *puts("a", "a2"),
        *does("a", "pull"),
    ],
    "what was sent is the base of what was written since": [
        *pushes("a", "a1", fate="unanswered"),
        *puts("a", "a2"),
        *does("a", "pull"),
    ],
    "the history tells what became of a push": [
        *pushes("a", "a1"),
        *pushes("a", "a2", fate="unanswered"),
        *puts("a", "a3"),
        *pushes("b", "b1"),
        *does("a", "pull"),
    ],
    "where the history is cut a base is lost": [
        *pushes("a", "a1"),
        *pushes("a", "a2", fate="unanswered"),
        *puts("a", "a3"),
        *[step for _ in range(9) for step in pushes("b", "b1")],
        *does("a", "pull"),
    ],
    "a snapshot protects what it names": [
        *pushes("a", "a1 b1 c1"),
        *does("a", "keep"),
        *pushes("a", "a2 b2 c2", merging="all"),
        *SWEEP,
        *does("a", "restore"),
    ],
    "a fork protects what it reads and has sent": [
        *pushes("a", "a1 b1 c1"),
        *works("a", "a3"),
        *SWEEP,
        *does("a", "merge"),
    ],
    "a push protects the packs of forks anew, or refuses": [
        *pushes("a", "a1 b1 c1"),
        *works("a", "a3"),
        *does("a", "merge", "wait", "wait", "wait", "wait", "collect", "push"),
    ],
    "a row of a receipt has what its key was at the fork's base": [
        *pushes("a", "a1 b1 c1"),
        *works("a", "a2"),
        *does("a", "merge", "push"),
    ],
    "where a fork's value lies is kept while an operation needs it": [
        *pushes("a", "a1 b1 c1"),
        *works("b", "a3"),
        *pushes("a", "d1", fate="unanswered"),
        *does("a", "merge", "pull", "push"),
    ],
}
