"""Reading Neon's answers: lenient where nothing hangs on it, strict where an absence must be believable."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotator.model import Key
from rotator.neon_answers import (
    Flaw,
    Unreadable,
    message_of,
    parse_account,
    parse_created,
    parse_date,
    parse_list,
    parse_retry_after,
    parse_revoked,
    parse_time,
    read,
)


def an_entry(**fields: object) -> dict[str, object]:
    return {"id": 1, "name": "a", "created_at": "2026-11-23T04:05:50Z", **fields}


AT = datetime(2026, 11, 23, 4, 5, 50, tzinfo=UTC)


class TestReadingAList:
    @pytest.mark.parametrize(
        ("entry", "key"),
        [
            (an_entry(), Key(1, "a", AT)),
            (an_entry(unknown=[{}]), Key(1, "a", AT)),
            (an_entry(created_by={"id": "u", "name": "n", "image": "i"}), Key(1, "a", AT, "u")),
            (an_entry(created_by="u"), Key(1, "a", AT, "u")),
            (an_entry(created_by={}), Key(1, "a", AT)),
            (an_entry(created_by=7), Key(1, "a", AT)),
            (an_entry(last_used_at=None, last_used_from_addr=""), Key(1, "a", AT)),
            (an_entry(last_used_at="", last_used_from_addr=None), Key(1, "a", AT)),
            (an_entry(last_used_at="0001-01-01T00:00:00Z"), Key(1, "a", AT)),
            (
                an_entry(last_used_at="2026-11-23T04:05:50Z", last_used_from_addr="203.0.113.7, 2001:db8::1 ,"),
                Key(1, "a", AT, last_used_at=AT, last_used_from=("203.0.113.7", "2001:db8::1")),
            ),
            (an_entry(project_id="p"), Key(1, "a", AT, project="p")),
            (an_entry(project_id=None), Key(1, "a", AT)),
            (an_entry(name=""), Key(1, "", AT)),
            (an_entry(name="\ud800"), Key(1, "?", AT)),
            (an_entry(id=2**63 - 1), Key(2**63 - 1, "a", AT)),
        ],
    )
    def test_an_entry_is_read_leniently(self, entry: dict[str, object], key: Key) -> None:
        assert parse_list([entry]) == {key.id: key}

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (None, "it is not a list"),
            ({"api_keys": []}, "it is not a list"),
            ([an_entry(), 7], "entry 2 is not an object"),
            ([an_entry(), an_entry()], "entry 2 repeats an id"),
            ([an_entry(id="1")], "entry 1 has no id"),
            ([an_entry(id=True)], "entry 1 has no id"),
            ([an_entry(id=1.0)], "entry 1 has no id"),
            ([an_entry(id=2**63)], "entry 1 has no id"),
            ([an_entry(id=0)], "entry 1 has no id"),
            ([an_entry(name=None)], "entry 1 has no name"),
            ([an_entry(created_at="yesterday")], "entry 1 has no created_at that is a time"),
            ([an_entry(created_at="9999-12-31T23:59:59Z")], "entry 1 has no created_at that is a time"),
            ([an_entry(created_at="0001-01-01T00:00:00Z")], "entry 1 has no created_at that is a time"),
            ([an_entry(last_used_at="9999-12-31T23:59:59Z")], "entry 1 has a last_used_at that is not a time"),
            ([an_entry(created_at=1700000000)], "entry 1 has no created_at that is a time"),
            ([an_entry(last_used_at="soon")], "entry 1 has a last_used_at that is not a time"),
            ([an_entry(last_used_at=False)], "entry 1 has a last_used_at that is not a time"),
            ([an_entry(last_used_from_addr=["::1"])], "entry 1 has a last_used_from_addr that is not text"),
            ([an_entry(project_id=7)], "entry 1 has a project_id that is not text"),
        ],
    )
    def test_one_entry_that_cannot_be_read_makes_it_no_list(self, data: object, why: str) -> None:
        with pytest.raises(Unreadable, match=f"^{why}$"):
            parse_list(data)

    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("2026-11-23T04:05:50Z"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
    fields = st.sampled_from(
        [
            "id",
            "name",
            "created_at",
            "created_by",
            "last_used_at",
            "last_used_from_addr",
            "project_id",
            "key",
            "revoked",
        ]
    )

    @settings(deadline=None)
    @given(anything | st.lists(st.builds(lambda twist: an_entry(**twist), st.dictionaries(fields, anything))))
    def test_whatever_comes_it_is_a_list_or_unreadable(self, data: object) -> None:
        try:
            keys = parse_list(data)
        except Unreadable:
            return
        assert isinstance(data, list)
        assert len(keys) == len(data)
        for key_id, key in keys.items():
            assert key_id == key.id > 0
            for moment in (key.created_at, key.last_used_at):
                assert moment is None or moment.tzinfo is UTC
            json.dumps([key.name, key.created_by, key.project, key.last_used_from], ensure_ascii=False).encode()

    @settings(deadline=None)
    @given(st.dictionaries(fields, anything))
    def test_so_it_is_with_the_other_answers(self, data: dict[str, object]) -> None:
        for parse in (parse_created, parse_revoked, parse_account):
            assert read(json.dumps(an_entry(**data)).encode(), parse) is not None

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_whatever_bytes_come_they_are_read_or_flawed(self, body: bytes) -> None:
        assert isinstance(read(body, parse_list), dict | Flaw)
        message_of(body)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[",
            b"\xff\xfe[]",
            b"\xef\xbb\xbf[]",
            b"[NaN]",
            b"[-Infinity]",
            b"[" * 200_000,
            b'{"a":' * 100_000,
            b"[" + b"9" * 5000 + b"]",
            b"<html></html>",
        ],
        ids=lambda body: repr(body[:12]),
    )
    def test_what_is_no_json_is_flawed(self, body: bytes) -> None:
        assert read(body, parse_list) == Flaw("it is not JSON")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23T04:05:50Z", AT),
        ("2026-11-23T04:05:50", AT),
        ("2026-11-23t04:05:50z", AT),
        ("2026-11-23 04:05:50+00:00", AT),
        ("2026-11-23T05:05:50+01:00", AT),
        ("2026-11-23T04:05:50.25Z", AT.replace(microsecond=250_000)),
        ("2026-11-23T04:05:50.123456789Z", AT.replace(microsecond=123_456)),
        ("2026-11-23", None),
        ("2026-13-23T04:05:50Z", None),
        ("0001-01-01T00:00:00+02:00", None),
        ("20261123T040550Z", None),
        ("2026-11-23T04:05:50Z\n", None),
        ("", None),
        (None, None),
        (1700000000, None),
    ],
)
def test_times(text: object, moment: datetime | None) -> None:
    assert parse_time(text) == moment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 7.5 ", 7.5),
        ("0", 0),
        ("86400", 3600),
        ("-1", None),
        ("1e3", None),
        ("nan", None),
        ("9" * 400, None),
        ("soon", None),
        ("Mon, 23 Nov 2026 04:06:00 GMT", 10),
        ("Mon, 23 Nov 2026 04:00:00 GMT", 0),
        ("Mon, 23 Nov 2099 04:00:00 GMT", 3600),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert parse_retry_after(text, AT) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "yesterday", "Mon, 99 Nov 2026 04:06:00 GMT", "Mon, 23 Nov 20260 04:06:00 GMT"),
        *("Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 23 Nov 2026 04:06:00 -99999999999999999999"),
    ],
)
def test_a_date_that_is_none_is_ignored(text: str | None) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize("key", [None, 7, "", "two words", "line\nbreak", "n\u00efve", "x" * 2000])
def test_a_secret_that_nobody_could_use_is_unreadable(key: object) -> None:
    with pytest.raises(Unreadable, match=r"^it has no key that can be used$"):
        parse_created(an_entry(key=key))
