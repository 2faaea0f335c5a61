"""A store that fails now and then costs time, not data; one that fails for good is an error that says so."""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dgbatch.errors import LocationError, StoreFailed
from dgbatch.runner.storage import store, store_connection
from dgbatch.runner.storage.folder import Folder, open_folder
from dgbatch.runner.storage.store import Store, open_store
from tests.stores import servers
from tests.stores.faulty import Faulty
from tests.stores.servers import Server


@pytest.fixture
def sick(moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """moto behind a proxy; set `share`, or what `fault` answers."""
    with Faulty(moto_server.endpoint) as proxy:
        servers.s3(proxy.url).enter(monkeypatch)
        yield proxy


@pytest.fixture
def folder(sick: Faulty, tmp_path) -> Folder:
    return open_folder(f"s3://bucket/{tmp_path.name}")


def failing(proxy: Faulty, method: str, *kinds: str | None) -> None:
    """The next requests of this method meet these faults."""
    left = list(kinds)
    proxy._choose = lambda asked, path: left.pop(0) if asked == method and left else None


@pytest.mark.parametrize("kind", ["500", "503", "lost", "slow"])
def test_a_put_that_fails_once_is_tried_again(folder: Folder, sick: Faulty, kind: str) -> None:
    failing(sick, "PUT", kind)
    folder.put("a", b"data")
    assert sick.met[kind] == 1
    assert folder.get("a") == b"data"


@pytest.mark.parametrize("kind", ["500", "lost"])
def test_a_first_put_whose_answer_was_lost_is_ours(folder: Folder, sick: Faulty, kind: str) -> None:
    failing(sick, "PUT", kind)
    assert folder.put_if_absent("a", b"ours")
    assert sick.met[kind] == 1
    assert folder.get("a") == b"ours"


def test_a_put_that_came_second_is_not_ours_though_its_answer_was_lost(folder: Folder, sick: Faulty) -> None:
    assert folder.put_if_absent("a", b"theirs")
    failing(sick, "PUT", "lost")
    assert not folder.put_if_absent("a", b"ours")
    assert folder.get("a") == b"theirs"


def test_a_put_on_a_condition_says_so_to_the_store(folder: Folder, sick: Faulty) -> None:
    folder.put_if_absent("a", b"data")
    assert [headers.get("if-none-match") for method, _, headers in sick.requests if method == "PUT"] == ["*"]


def test_an_appended_line_whose_answer_was_lost_is_there_once(folder: Folder, sick: Faulty) -> None:
    folder.append("log", b"one")
    failing(sick, "PUT", "lost")
    folder.append("log", b"two")
    assert folder.log("log") == b"one\ntwo\n"


@pytest.mark.parametrize("kind", ["500", "503", "lost", "truncated"])
def test_a_get_never_gives_less_than_all(folder: Folder, sick: Faulty, kind: str) -> None:
    data = os.urandom(300_000)
    folder.put("a", data)
    failing(sick, "GET", kind, kind)
    assert folder.get("a") == data
    assert sick.met[kind] == 2


def test_a_range_never_gives_less_than_all(folder: Folder, sick: Faulty) -> None:
    data = os.urandom(300_000)
    folder.put("a", data)
    failing(sick, "GET", "truncated", "500", "truncated")
    opened, key = open_store(str(folder.at("a")))
    assert opened.get_range(key, 1000, 200_000) == data[1000:201_000]
    assert sum(sick.met.values()) == 3


@pytest.mark.parametrize("kind", ["503", "lost", "truncated"])
def test_a_list_is_whole(folder: Folder, sick: Faulty, kind: str) -> None:
    names = [f"data/{number}" for number in range(9)]
    for name in names:
        folder.put(name, b"")
    failing(sick, "GET", kind, kind)
    assert folder.list("data") == names
    assert sick.met[kind] == 2


def test_an_answer_that_does_not_come_is_given_up_and_asked_for_again(
    folder: Folder, sick: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_connection, "REQUEST_S", 0.3)
    store._store.cache_clear()
    hasty = open_folder(folder.path)
    hasty.put("a", b"data")
    sick.slow_s = 2.0
    failing(sick, "GET", "slow")
    began = time.monotonic()
    assert hasty.get("a") == b"data"
    assert time.monotonic() - began < 2.0
    store._store.cache_clear()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.faults) for seed in (1, 2, 3))])
def test_a_fifth_of_the_requests_may_fail(folder: Folder, sick: Faulty, seed: int) -> None:
    sick.share, sick.slow_s = 0.2, 0.05
    sick._dice.seed(seed)
    print(f"seed {seed}")
    large = os.urandom(100_000)
    for number in range(20):
        assert folder.put_if_absent(f"commits/{number}", large + b"%d" % number)
        folder.append("log", b"%d" % number)
    assert folder.list("commits") == sorted(f"commits/{number}" for number in range(20))
    assert all(folder.get(f"commits/{number}") == large + b"%d" % number for number in range(20))
    assert folder.log("log").split() == [b"%d" % number for number in range(20)]
    assert sum(sick.met.values()) > 10


@pytest.mark.parametrize(
    ("kind", "said"), [("500", "answered 500 InternalError"), ("lost", "the connection broke off")]
)
def test_a_store_that_stays_away_is_an_error_after_a_while(
    folder: Folder, sick: Faulty, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    monkeypatch.setattr(store, "RETRY_S", 1.0)
    sick._choose = lambda method, path: kind
    with pytest.raises(StoreFailed, match=said) as failed:
        folder.put("a", b"data")
    assert failed.value.exit_code == 4
    assert sick.met[kind] > 2
    assert str(folder.at("a")) in str(failed.value)


def test_a_store_that_was_away_for_long_is_not_waited_for_again_until_it_answers(
    folder: Folder, sick: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RETRY_S", 1.5)
    monkeypatch.setattr(store, "AWAY_S", 0.1)
    took = []
    for _ in range(3):
        sick._choose = lambda method, path: "503"
        began = time.monotonic()
        with pytest.raises(StoreFailed):
            folder.list()
        took.append(time.monotonic() - began)
        if len(took) == 2:
            sick._choose = lambda method, path: None
            folder.put("a", b"back")
    assert took[0] > 0.7 and took[1] < 0.4 and took[2] > 0.7


class Clock:
    """Stands in for `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def refused() -> None:
    raise TimeoutError


def gives_up_after(bucket: Store, clock: Clock, request: Callable[[], None]) -> float:
    """Seconds since the first test began."""
    with pytest.raises(StoreFailed):
        bucket._try("key", request)
    return clock.now - 1000


@pytest.mark.parametrize(
    ("answered_at", "earliest_s", "latest_s"),
    [
        (None, 60, 65),  # with the first one, whose minute is over, and not a minute after it began itself
        (1030, 90, 101),  # the store was there at that time: its minute has begun anew
    ],
)
def test_request_gives_up_when_nobody_had_an_answer_for_a_minute(
    s3: str, monkeypatch: pytest.MonkeyPatch, answered_at: float | None, earliest_s: float, latest_s: float
) -> None:
    """A job asks for many things, one after the other: with a minute for each it would not end for minutes. Between two
    tries there are up to 5 s, by chance.
    """
    bucket, _ = open_store(s3)
    monkeypatch.setattr(store, "time", clock := Clock())
    due, second = [answered_at], []

    def refused_while_another_begins() -> None:
        if due[0] and clock.now >= due[0]:
            due[0] = None
            bucket._try("other", lambda: None)
        if clock.now >= 1040 and not second:
            second.append(gives_up_after(bucket, clock, refused))
        refused()

    first = gives_up_after(bucket, clock, refused_while_another_begins)
    assert earliest_s <= second[0] <= latest_s
    assert first - second[0] <= 5
    third = gives_up_after(bucket, clock, refused)
    assert third - first <= 2, "away until it answers"
    bucket._try("other", lambda: None)
    assert gives_up_after(bucket, clock, refused) - third > 50


def test_a_store_that_is_not_there_is_named(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RETRY_S", 0.5)
    servers.s3(f"http://127.0.0.1:{servers.free_port()}").enter(monkeypatch)
    with pytest.raises(StoreFailed, match=r"the store cannot be reached. Is its endpoint right, and"):
        open_folder("s3://bucket/x").get("a")


def test_the_error_of_a_store_keeps_its_text_however_it_is_made_again() -> None:
    for error in (StoreFailed(5, "s3://bucket/x: away"), StoreFailed("s3://bucket/x: away")):
        again = type(error)(str(error))
        assert str(error) == str(again) == str(pickle.loads(pickle.dumps(error))) == "s3://bucket/x: away"


def test_no_such_bucket_is_said_at_once(folder: Folder) -> None:
    for ask in (lambda other: other.put("a", b""), lambda other: other.get("a"), lambda other: other.list()):
        with pytest.raises(StoreFailed, match=r"s3://nobody-made-this.*: no such bucket"):
            ask(open_folder("s3://nobody-made-this/x"))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:s3cret@bucket/x",
        "s3://s3cret@bucket/x",
        "s3://bucket/x?endpoint_override=http://me:s3cret@host",
        "gs://bucket/x?token=s3cret",
        "abfs://container:s3cret@account/x",
        "abfs://container@account:s3cret/x",
        "abfs://container@account/x?sig=s3cret",
        "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=s3cret",
        "ftp://me:s3cret@host/x",
    ],
)
def test_a_uri_that_may_hold_a_secret_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(LocationError) as refused:
        open_folder(uri)
    assert "s3cret" not in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("uri", ["s3:///x", "s3://bucket/a//b", "s3://bucket/../b", "gs://", "abfs://@account/x"])
def test_a_uri_that_names_no_place_is_refused(uri: str) -> None:
    with pytest.raises(LocationError, match=re.escape(uri)):
        open_folder(uri)


def test_credentials_of_a_profile_are_used(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text("[nightly]\naws_access_key_id = PROFILE\naws_secret_access_key = s3cret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "nightly")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with Faulty(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        open_folder(s3).put("a", b"data")
    assert (
        "Credential=PROFILE/" in {name.lower(): value for name, value in proxy.requests[0][2].items()}["authorization"]
    )
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(LocationError, match=r"s3://bucket: ~/.aws cannot be used: .*nobody.* Mend it, or set"):
        open_folder(s3)


@pytest.mark.parametrize(
    ("uri", "variables", "set_to"),
    [
        ("s3://bucket/x", "AWS_", {"AWS_ACCESS_KEY_ID": "half"}),
        ("az://container/x", "AZURE_", {}),
        ("gs://bucket/x", "GOOGLE_", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json"}),
    ],
)
def test_an_environment_that_does_not_say_how_to_reach_a_store_is_named(
    monkeypatch: pytest.MonkeyPatch, uri: str, variables: str, set_to: dict[str, str]
) -> None:
    Server(uri, set_to).enter(monkeypatch)
    with pytest.raises(
        LocationError, match=rf"^{uri[:-2]}: the environment .* Look at the variables {variables}\.\.\."
    ) as no:
        open_folder(uri)
    assert no.value.exit_code == 2
