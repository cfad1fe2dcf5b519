"""A secret never shows itself, and is taken out of any text; what looks alike and is needed stays."""

from __future__ import annotations

import base64
import copy
import gc
import hashlib
import json
import pickle
import pprint
import secrets
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.secret import BLANK, Secret, blank, fingerprint

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def a_new_key() -> str:
    """As Neon gives them. Made when the test runs, so that none stands in the source."""
    return "napi_" + "".join(secrets.choice(ALPHABET) for _ in range(64))


def an_old_key() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(64))


def a_signing_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


# The secret itself

SHOWN: dict[str, Callable[[Secret], object]] = {
    "repr": repr,
    "str": str,
    "format": format,
    "an f-string": lambda secret: f"{secret} {secret!r} {secret!s:>80}",
    "a percent sign": lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - this is what is tested
    "in a list": lambda secret: repr([{"key": (secret,)}]),
    "pprint": lambda secret: pprint.pformat({"key": secret}),
    "an exception": lambda secret: repr(ValueError(secret)) + str(ValueError(secret)),
    "json with a default": lambda secret: json.dumps({"key": secret}, default=str),
    "its attributes": lambda secret: dir(secret),
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN.keys())
def test_a_secret_shows_only_its_fingerprint(show: Callable[[Secret], object]) -> None:
    value = a_new_key()
    shown = str(show(Secret(value)))
    assert value not in shown
    assert value[5:15] not in shown


LEAVES: dict[str, Callable[[Secret], object]] = {
    **{
        f"pickle {number}": (lambda secret, number=number: pickle.dumps(secret, number))  # type: ignore[misc]
        for number in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": lambda secret: copy.deepcopy([secret]),
    "json": json.dumps,
    "vars": vars,
    "a format of its own": lambda secret: format(secret, ">80"),
}


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES.keys())
def test_a_secret_cannot_be_carried_off(leave: Callable[[Secret], object]) -> None:
    value = a_new_key()
    with pytest.raises(TypeError) as refused:
        leave(Secret(value))
    assert value not in str(refused.value)


def test_reveal_is_the_way_in() -> None:
    value = a_new_key()
    assert Secret(value).reveal() == value
    assert Secret(value) == Secret(value) != Secret(an_old_key())
    assert Secret(value) != value
    assert len({Secret(value), Secret(value)}) == 1


def test_a_fingerprint_is_the_beginning_of_the_hash() -> None:
    value = a_new_key()
    expected = "sha256:" + hashlib.sha256(value.encode()).hexdigest()[:16]
    assert Secret(value).fingerprint == fingerprint(value) == expected
    assert repr(Secret(value)) == f"Secret({expected})"


# Taking secrets out of a text

LOOKS: dict[str, Callable[[], str]] = {"new": a_new_key, "old": an_old_key, "signing": a_signing_secret}
SURROUNDINGS: dict[str, str] = {
    "alone": "{}",
    "in words": "the key {} was refused",
    "quoted": "'{}'",
    "after a colon": "key:{}",
    "after a colon and a space": "Authorization: {}",
    "in a URL": "https://host/path?key={}&x=1",
    "in a cookie": "Cookie: keycloak_token={}; zenith=1",
    "on a line of its own": "first\n{}\nlast",
    "on a line, in JSON": json.dumps("first\n{}\nlast"),
    "after a tab, in JSON": json.dumps("first\t{}\tlast"),
    "after a letter that JSON escapes": json.dumps("…{}…"),
    "in JSON in JSON": json.dumps(json.dumps({"key": "{}"})),
    "as bytes": "b'{}'",
    "in a terminal's colour": "\x1b[36mkey\x1b[0m=\x1b[35m{}\x1b[0m",
    "in a terminal's bold": "\x1b[1m{}\x1b[0m",
    "in brackets": "[{}]",
    "twice": "{0} {0}",
    "twice as folders": "/{0}/{0}/x",
    "as a bearer": "Authorization: Bearer {}",
}


@pytest.mark.parametrize("kind", LOOKS.values(), ids=LOOKS.keys())
@pytest.mark.parametrize("surrounding", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
def test_what_looks_like_a_secret_is_blanked_although_nobody_holds_it(
    surrounding: str, kind: Callable[[], str]
) -> None:
    value = kind()
    text = surrounding.replace("{0}", value).replace("{}", value)
    assert value in text
    assert value.removeprefix("whsec_").removeprefix("napi_")[:16] not in blank(text)
    assert BLANK in blank(text)


HELD: dict[str, str] = {
    "an ordinary one": "hunter2hunter2",
    "one with quotes": "cor\"rect'horse",
    "one with backslashes": "battery\\staple\\n",
    "one that a URL escapes": "abc+def/ghi==",
    "one like an expression": "(a|b)*[c]{2}",
}
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda value: value,
    "in JSON": lambda value: json.dumps({"key": value}),
    "in JSON in JSON": lambda value: json.dumps({"body": json.dumps({"key": value})}),
    "as Python shows it": lambda value: repr({"key": value}),
    "in a URL": lambda value: f"https://host/?key={quote(value)}",
    "in a URL's part": lambda value: f"https://host/{quote(value, safe='')}/x",
    "broken over lines": lambda value: f"key: {value[:6]}\n    {value[6:]}",
    "broken over lines, in JSON": lambda value: json.dumps(f"key: {value[:6]}\n\t{value[6:]}"),
    "letter by letter": lambda value: " ".join(value),
    "in a URL, every letter": lambda value: "".join(f"%{ord(letter):02X}" for letter in value),
    "in JSON, every letter": lambda value: "".join(f"\\u{ord(letter):04x}" for letter in value),
    "in JSON in JSON, every letter": lambda value: "".join(f"\\\\u{ord(letter):04X}" for letter in value),
    "as bytes, every letter": lambda value: "".join(f"\\x{ord(letter):02x}" for letter in value),
    "backwards": lambda value: value[::-1],
    "in hexadecimal": lambda value: value.encode().hex(),
    "in large hexadecimal": lambda value: value.encode().hex().upper(),
    "in base64": lambda value: base64.b64encode(value.encode()).decode(),
    "in base64 for URLs": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "in base64 after one letter": lambda value: base64.b64encode(f"u{value}".encode()).decode(),
    "as a user's password": lambda value: "Basic " + base64.b64encode(f"user:{value}@".encode()).decode(),
    "in base64 in lines": lambda value: base64.encodebytes(f"user:{value} and what comes after it".encode()).decode(),
}


def core(value: str, before: int) -> str:
    """A piece of the secret in base64, as it comes out after so many letters of something else."""
    return base64.b64encode(b"." * before + value.encode()).decode()[4:12]


@pytest.mark.parametrize("value", HELD.values(), ids=HELD.keys())
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_secret_that_is_held_is_blanked_however_it_is_written(form: Callable[[str], str], value: str) -> None:
    secret = Secret(value)
    text = blank(f"before {form(value)} after")
    assert value not in text
    assert "".join(text.split()).count(value[2:6]) == 0, text
    for word in (
        value.encode().hex()[4:12],
        f"{ord(value[3]):02x}%{ord(value[4]):02x}",
        f"u{ord(value[3]):04x}\\",
        value[2:6][::-1],
        *(core(value, before) for before in range(3)),
    ):
        assert word.lower() not in "".join(text.split()).lower(), text
    assert BLANK in text
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert secret.reveal() == value


def test_a_secret_that_is_part_of_another_does_not_save_the_rest_of_it() -> None:
    held = [Secret("hunter2hunter2"), Secret("hunter2hunter2-and-more")]
    assert blank(f"it is {held[1].reveal()}") == f"it is {BLANK}"


def test_a_secret_that_was_dropped_is_not_looked_for_any_more() -> None:
    secret = Secret("hunter2hunter2")
    assert blank("hunter2hunter2") == BLANK
    del secret
    gc.collect()
    assert blank("hunter2hunter2") == "hunter2hunter2"


def test_a_secret_shorter_than_a_word_does_not_blank_words() -> None:
    secret = Secret("key")
    assert blank("the key is in use") == "the key is in use"
    assert secret.fingerprint == fingerprint("key")


KEPT = {
    "a fingerprint": fingerprint("x"),
    "the head of the history": "sha256:" + hashlib.sha256(b"x").hexdigest(),
    "the head, in JSON": json.dumps({"hash": "sha256:" + hashlib.sha256(b"x").hexdigest()}),
    "the name of a key": "ci-pipeline-20261123T040550Z-d233f1",
    "the longest name of a key": "a" * 40 + "-20261123T040550Z-d233f1",
    "an id": "2291515",
    "a time": "2026-11-23T04:05:50Z",
    "a digest that is longer": hashlib.sha512(b"x").hexdigest(),
    "a digest that is shorter": hashlib.sha1(b"x").hexdigest(),
    "the beginning of a key": "a key begins with napi_ and a signing secret with whsec_",
    "an address": "203.0.113.7, 2001:db8::1",
    "a message id": "msg_2291515_ci",
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_what_is_needed_stays(text: str) -> None:
    assert blank(text) == text


def test_blanking_leaves_json_what_it_is() -> None:
    line = json.dumps({"a": f"Bearer {an_old_key()}", "b": f"Bearer {a_signing_secret()}", "c": ["Bearer x"], "d": 1})
    assert json.loads(blank(line)) == {"a": f"Bearer {BLANK}", "b": f"Bearer {BLANK}", "c": [f"Bearer {BLANK}"], "d": 1}


@given(st.text(max_size=200))
def test_a_text_without_secrets_is_left_alone(text: str) -> None:
    assert blank(text) == text or "earer " in text.lower()


def test_threads_that_make_and_drop_secrets_do_not_disturb_one_that_blanks() -> None:
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            kept: list[Any] = [Secret(f"hunter2hunter2-{number}") for number in range(50)]
            kept.clear()

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            blank("nothing of importance")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
