"""Where credentials come from, and what becomes of those that expire while they are in use.

The store behind is ministack, which accepts any; a gate in front of it sees which ones were used and
refuses them as S3 does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

import ebooklet_tx
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import RemoteAccessError, TransientStoreError
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.s3 import S3Store
from tests.places import new_place
from tests.s3_proxy import s3_proxy

DAY_SECONDS = 86_400
SECRET = "the-secret-4711"

_PROCESS = """
import datetime, json, pathlib, sys
counter, *lifetimes = sys.argv[1:]
file = pathlib.Path(counter)
number = int(file.read_text()) + 1
file.write_text(str(number))
lifetime = lifetimes[min(number, len(lifetimes)) - 1]
if lifetime == "fail":
    sys.exit("TOKEN-IN-THE-MESSAGE")
if lifetime == "nonsense":
    print("TOKEN-IN-THE-MESSAGE")
    sys.exit()
given = {"Version": 1, "AccessKeyId": f"PROCESS-{number}", "SecretAccessKey": "the-secret-4711",
         "SessionToken": f"TOKEN-{number}"}
if lifetime != "endless":
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=int(lifetime))
    given["Expiration"] = end.isoformat()
print(json.dumps(given))
"""


@dataclass
class Gate:
    """Sees the credentials of each request to a bucket, and refuses some requests.

    Attributes:
        used: Key id and session token of each request, in order.
        refusal: Returns S3's word for a refusal, or None to let a request pass; given key id and URL.
    """

    used: list[tuple[str, str | None]] = field(default_factory=list)
    refusal: Callable[[str, str], str | None] = lambda _key_id, _target: None

    @property
    def key_ids(self) -> list[str]:
        return [key_id for key_id, _ in self.used]

    def guard(self, proxy: Any) -> None:
        forward = proxy.ask

        def ask(method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> Any:
            said = {name.lower(): value for name, value in headers}
            key_id = said.get("authorization", "").partition("Credential=")[2].partition("/")[0]
            self.used.append((key_id, said.get("x-amz-security-token")))
            code = self.refusal(key_id, target)
            if code is None:
                return forward(method, target, headers, body)
            words = f"refused {key_id} {said.get('x-amz-security-token')} {SECRET}"
            return 400, [], f"<Error><Code>{code}</Code><Message>{words}</Message></Error>".encode()

        proxy.ask = ask


@dataclass
class Shop:
    """A bucket behind the gate, and an empty home for AWS's configuration."""

    gate: Gate
    bucket: str
    endpoint: str
    home: Path

    def connection(self, **given: Any) -> S3Connection:
        return S3Connection(db_key="db", bucket=self.bucket, endpoint_url=self.endpoint, **given)

    def open(self, name: str, flag: str, **given: Any) -> ebooklet_tx.Database:
        policy = RetryPolicy.without_backoff()
        options = {"lock": None, "conditional_writes": True, "retry": policy}
        return ebooklet_tx.open(self.connection(**given), self.home / f"{name}.blt", flag, **options)

    def process_profile(self, *lifetimes: object) -> str:
        """Sets up a profile whose credentials a process gives, each living so many seconds."""
        script = self.home / "process.py"
        script.write_text(_PROCESS)
        self.counter.write_text("0")
        words = [sys.executable, "-I", script, self.counter, *lifetimes]
        line = " ".join(str(word) for word in words)
        (self.home / "config").write_text(f"[profile process]\ncredential_process = {line}\n")
        return "process"

    @property
    def counter(self) -> Path:
        return self.home / "asked"

    @property
    def times_asked(self) -> int:
        return int(self.counter.read_text())


@pytest.fixture
def shop(
    request: pytest.FixtureRequest, ministack_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "DEFAULT_PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    place = new_place("ministack", request, tmp_path).connection
    assert isinstance(place, S3Connection)
    gate = Gate()
    with s3_proxy(ministack_endpoint) as proxy:
        gate.guard(proxy)
        yield Shop(gate, place.bucket or "", proxy.endpoint, tmp_path)


def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY-OF-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "ENVIRONMENT-TOKEN")


def _shared_file(home: Path) -> None:
    (home / "credentials").write_text(
        "".join(
            f"[{name}]\naws_access_key_id = KEY-OF-{name}\naws_secret_access_key = {SECRET}\n"
            for name in ("default", "work")
        )
    )


EXPLICIT = {"access_key_id": "KEY-GIVEN", "access_key": SECRET}


@pytest.mark.parametrize(
    ("given", "in_environment", "expected"),
    [
        ({}, True, ("KEY-OF-environment", "ENVIRONMENT-TOKEN")),
        ({}, False, ("KEY-OF-default", None)),
        ({"profile": "work"}, False, ("KEY-OF-work", None)),
        ({"profile": "work"}, True, ("KEY-OF-work", None)),
        ({"profile": "process"}, False, ("PROCESS-1", "TOKEN-1")),
        ({"profile": "process"}, True, ("PROCESS-1", "TOKEN-1")),
        (EXPLICIT, False, ("KEY-GIVEN", None)),
        (EXPLICIT, True, ("KEY-GIVEN", None)),
        ({**EXPLICIT, "session_token": "GIVEN-TOKEN"}, True, ("KEY-GIVEN", "GIVEN-TOKEN")),
        ({**EXPLICIT, "profile": "work"}, True, ("KEY-GIVEN", None)),
    ],
)
def test_what_is_given_wins_over_a_profile_and_that_over_the_environment(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    in_environment: bool,
    expected: tuple[str, str | None],
) -> None:
    shop.process_profile("endless")
    _shared_file(shop.home)
    if in_environment:
        _environment(monkeypatch)
    with shop.open("a", "c", **given) as db:
        db["k"] = b"v" * 100_000
        assert db.changes().push()
        assert set(shop.gate.used) == {expected}
    with shop.open("b", "r", **given) as db:
        assert db["k"] == b"v" * 100_000
    for path in shop.home.glob("?.blt*"):
        held = path.read_bytes()
        for secret in (SECRET, *(word for word in expected if word)):
            assert secret.encode() not in held, path


def test_a_profile_named_by_the_environment_stands_behind_its_keys(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _shared_file(shop.home)
    monkeypatch.setenv("AWS_PROFILE", "work")
    shop.open("a", "c").close()
    assert set(shop.gate.key_ids) == {"KEY-OF-work"}
    _environment(monkeypatch)
    shop.open("b", "c").close()
    assert set(shop.gate.key_ids) == {"KEY-OF-work", "KEY-OF-environment"}


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired", "InvalidToken"])
def test_credentials_that_expire_in_the_middle_of_a_push_are_asked_for_again(shop: Shop, code: str) -> None:
    profile = shop.process_profile("endless")
    values = {f"k{number}": bytes([number]) * (6 << 20) for number in range(8)}
    with shop.open("a", "c", profile=profile) as db:
        db.update(values)
        db.sync()
        shop.gate.refusal = lambda key_id, target: (
            code if key_id == "PROCESS-1" and "/pack/" in target and len(shop.gate.used) > 3 else None
        )
        before = len(shop.gate.used)
        result = db.changes().push()
        assert (result.set_count, result.seq) == (8, 1)
        used = shop.gate.key_ids[before:]
        assert {"PROCESS-1", "PROCESS-2"} == set(used)
        assert used[-1] == "PROCESS-2"
    # However many threads were refused at once.
    assert shop.times_asked == 2
    with shop.open("b", "r", access_key_id="any", access_key=SECRET) as db:
        assert dict(db.items()) == values


def test_credentials_that_stay_expired_are_tried_once_more_and_no_oftener(shop: Shop) -> None:
    profile = shop.process_profile("endless")
    shop.gate.refusal = lambda _key_id, _target: "ExpiredToken"
    store = open_store(shop.connection(profile=profile), policy=RetryPolicy.without_backoff())
    operations: tuple[Callable[[], object], ...] = (
        lambda: store.get("db"),
        lambda: store.put("db", b"x", if_absent=True),
        lambda: store.delete("db"),
    )
    for number, operation in enumerate(operations, start=1):
        with pytest.raises(RemoteAccessError, match="credentials have expired") as caught:
            operation()
        assert len(shop.gate.used) == 2 * number
        assert shop.times_asked == 1 + number
        for secret in (SECRET, "PROCESS-", "TOKEN-"):
            assert secret not in str(caught.value)
    store.close()


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired"])
def test_given_keys_that_expire_are_told_of(shop: Shop, code: str) -> None:
    given = {**EXPLICIT, "session_token": "GIVEN-TOKEN"}
    with shop.open("a", "c", **given) as db:
        db["k"] = b"v"
        shop.gate.refusal = lambda _key_id, _target: code
        before = len(shop.gate.used)
        with pytest.raises(RemoteAccessError, match="credentials have expired"):
            db.changes().push()
        assert len(shop.gate.used) == before + 1
    shop.gate.refusal = lambda key_id, _target: code if key_id == "KEY-GIVEN" else None
    with shop.open("a", "w", access_key_id="NEWER", access_key=SECRET) as db:
        assert db["k"] == b"v"
        assert db.changes().push().set_count == 1


@pytest.mark.parametrize(
    ("lifetimes", "used", "times_asked"),
    [
        # Under ten minutes before their end they are renewed whenever they are looked at, until they last.
        ((300, 300, DAY_SECONDS), ["PROCESS-3"] * 4, 3),
        # Past their end when they came.
        ((-60, DAY_SECONDS), ["PROCESS-2"] * 4, 2),
        ((DAY_SECONDS,), ["PROCESS-1"] * 4, 1),
    ],
)
def test_what_is_about_to_expire_is_asked_for_again_before_it_is_used(
    shop: Shop, lifetimes: tuple[int, ...], used: list[str], times_asked: int
) -> None:
    store = S3Store(shop.connection(profile=shop.process_profile(*lifetimes)))
    for number in range(4):
        store.put(f"db.d/pack/{number}", b"x")
    assert shop.gate.key_ids == used
    assert shop.times_asked == times_asked
    store.close()


@pytest.mark.parametrize("then", [-60, "fail", "nonsense"])
def test_credentials_that_can_not_be_renewed_are_told_of(shop: Shop, then: object) -> None:
    store = S3Store(shop.connection(profile=shop.process_profile(-60, then)))
    with pytest.raises(RemoteAccessError, match="have expired, and no new ones") as caught:
        store.put("db", b"x")
    assert "TOKEN" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert shop.gate.used == []
    assert shop.times_asked == 2
    store.close()


@pytest.mark.parametrize("lifetime", ["fail", "nonsense"])
def test_a_process_that_gives_none_is_told_of_when_the_store_is_opened(shop: Shop, lifetime: str) -> None:
    with pytest.raises(RemoteAccessError, match="no client") as caught:
        S3Store(shop.connection(profile=shop.process_profile(lifetime)))
    assert "TOKEN" not in str(caught.value)


def test_a_process_that_is_not_there_is_told_of(shop: Shop) -> None:
    (shop.home / "config").write_text("[profile process]\ncredential_process = /no/such/program\n")
    with pytest.raises(RemoteAccessError, match="profile"):
        S3Store(shop.connection(profile="process"))


def test_a_denial_may_mean_that_temporary_credentials_have_expired(shop: Shop) -> None:
    store = S3Store(shop.connection(profile=shop.process_profile("endless", "endless")))
    shop.gate.refusal = lambda key_id, _target: "AccessDenied" if key_id == "PROCESS-1" else None
    for number in range(3):
        store.put(f"db.d/pack/{number}", b"x")
    assert shop.gate.key_ids == ["PROCESS-1"] + ["PROCESS-2"] * 3
    store.close()


def test_a_right_that_is_missing_costs_one_renewal_and_not_one_each_time(shop: Shop) -> None:
    store = S3Store(shop.connection(profile=shop.process_profile("endless", "endless", "endless")))
    shop.gate.refusal = lambda _key_id, _target: "AccessDenied"
    for number in range(3):
        with pytest.raises(RemoteAccessError, match="AccessDenied"):
            store.put(f"db.d/pack/{number}", b"x")
    assert shop.gate.key_ids == ["PROCESS-1", "PROCESS-2", "PROCESS-2", "PROCESS-2"]
    store.close()


def test_keys_that_do_not_expire_are_not_renewed_for_a_denial(shop: Shop) -> None:
    _shared_file(shop.home)
    store = S3Store(shop.connection())
    shop.gate.refusal = lambda _key_id, _target: "AccessDenied"
    with pytest.raises(RemoteAccessError, match="AccessDenied"):
        store.put("db", b"x")
    assert shop.gate.key_ids == ["KEY-OF-default"]
    store.close()


def test_a_service_that_can_not_be_reached_may_be_there_later(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable:
        def get_frozen_credentials(self) -> None:
            raise EndpointConnectionError(endpoint_url="https://sts.example.org/?token=TOKEN-1")

    store = S3Store(shop.connection(**EXPLICIT))
    monkeypatch.setattr(store._sender, "_credentials", Unreachable())
    with pytest.raises(TransientStoreError, match="credentials") as caught:
        store.put("db", b"x")
    assert not caught.value.may_have_applied
    assert "TOKEN" not in str(caught.value)
    assert shop.gate.used == []
    store.close()


def test_the_connection_noted_in_the_journal_finds_its_credentials_itself(shop: Shop) -> None:
    _shared_file(shop.home)
    with shop.open("a", "c", **EXPLICIT) as db:
        db["k"] = b"v"
    noted = json.dumps(shop.connection(**EXPLICIT).to_dict())
    assert "GIVEN" not in noted
    again = ebooklet_tx.open(json.loads(noted), shop.home / "a.blt", "w", lock=None, conditional_writes=True)
    with again as db:
        assert db.changes().push().set_count == 1
    assert shop.gate.key_ids[-1] == "KEY-OF-default"
