"""The rules by which a client chooses the mode of its commits, on plain values."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ebooklet_tx.records import CommitWay
from ebooklet_tx.stores.capabilities import Conditional
from ebooklet_tx.sync.commit import commit_mode
from ebooklet_tx.sync.commit.commit_mode import CommitMode

PLACE = ("http://127.0.0.1:9", "bucket")
SWAPS, UNQUOTED, TICKETS = (CommitWay(how, *PLACE) for how in ("quoted", "unquoted", "tickets"))
ELSEWHERE = CommitWay("tickets", "http://127.0.0.1:9", "another")


@dataclass
class Store:
    quote_etags: bool = True
    etags_proven: bool = False


@pytest.fixture(autouse=True)
def _no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_mode, "probe_results", {})


@pytest.mark.parametrize("commits", [None, ELSEWHERE])
def test_a_root_that_is_silent_here_changes_nothing(commits: CommitWay | None) -> None:
    mode = CommitMode(place=PLACE, expected=True)
    mode.follow(commits)
    assert mode == CommitMode(place=PLACE, expected=True)


@pytest.mark.parametrize(
    ("expected", "advertised", "doubts"),
    [(True, SWAPS, False), (True, TICKETS, True), (False, SWAPS, True), (None, TICKETS, False)],
)
def test_who_expects_another_mode_follows_the_root_in_doubt(
    expected: bool | None, advertised: CommitWay, doubts: bool
) -> None:
    mode = CommitMode(place=PLACE, expected=expected)
    mode.follow(advertised)
    assert (mode.swaps, mode.in_doubt) == (advertised.swaps, doubts)
    assert mode.must_change(advertised, exists=True) is doubts
    mode.follow_unasked(advertised)
    assert not mode.in_doubt


def test_a_doubt_outlives_what_the_next_root_says() -> None:
    mode = CommitMode(place=PLACE)
    mode.doubt_swaps()
    mode.follow(SWAPS)
    assert (mode.swaps, mode.in_doubt) == (False, True)
    mode.confirm(swaps=True)
    assert (mode.swaps, mode.in_doubt, mode.expected) == (True, False, True)


def test_unquoted_etags_are_sent_as_the_root_says_unless_quoted_ones_were_accepted() -> None:
    for proven in (False, True):
        store = Store(etags_proven=proven)
        mode = CommitMode(place=PLACE, quoting=store)
        mode.follow(UNQUOTED)
        assert store.quote_etags is proven
        assert mode.to_advertise() == (SWAPS if proven else UNQUOTED)


@pytest.mark.parametrize(
    ("mode", "commits", "exists", "changes"),
    [
        (CommitMode(), TICKETS, True, False),
        (CommitMode(place=PLACE), None, True, False),
        (CommitMode(place=PLACE, probed_store=Store()), None, True, True),
        (CommitMode(place=PLACE, probed_store=Store()), None, False, False),
        (CommitMode(place=PLACE, swaps=False), None, True, True),
        (CommitMode(place=PLACE, swaps=False), SWAPS, True, True),
        (CommitMode(place=PLACE, swaps=False), TICKETS, True, False),
        (CommitMode(place=PLACE, in_doubt=True), SWAPS, True, True),
    ],
)
def test_which_commits_have_to_change_the_mode(
    mode: CommitMode, commits: CommitWay | None, exists: bool, changes: bool
) -> None:
    assert mode.must_change(commits, exists=exists) is changes


def test_only_where_roots_name_modes_is_there_a_doubt() -> None:
    assert CommitMode(place=PLACE).doubt()
    assert not CommitMode().doubt()


@pytest.mark.parametrize(
    ("before", "swaps", "after"),
    [
        (None, True, Conditional.QUOTED),
        (None, False, Conditional.UNUSABLE),
        (Conditional.QUOTED, False, Conditional.UNUSABLE),
        (Conditional.REFUSED, False, Conditional.REFUSED),
        (Conditional.RACY, True, Conditional.QUOTED),
    ],
)
def test_what_a_root_has_shown_replaces_the_result_of_a_probe(
    before: Conditional | None, swaps: bool, after: Conditional
) -> None:
    mode = CommitMode(place=PLACE, probed_store=Store(), location="here")
    if before is not None:
        commit_mode.probe_results["here"] = before
    mode.confirm(swaps=swaps)
    assert mode.known_result(None) is after


def test_a_recorded_result_counts_where_this_process_has_none() -> None:
    mode = CommitMode(location="here")
    assert mode.known_result("refused") is Conditional.REFUSED
    assert mode.known_result("of a later version") is None
    commit_mode.probe_results["here"] = Conditional.QUOTED
    assert mode.known_result("refused") is Conditional.QUOTED


@pytest.mark.parametrize(
    ("result", "refuted"),
    [(Conditional.QUOTED, False), (Conditional.RACY, True), (Conditional.IGNORED, True)],
)
def test_a_probe_says_what_is_expected(result: Conditional, refuted: bool) -> None:
    mode = CommitMode(place=PLACE)
    mode.expect(result)
    assert mode.refuted is refuted
    mode.doubt()
    assert mode.refuted is (result is Conditional.RACY)
