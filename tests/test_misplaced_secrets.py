"""Secrets where none belongs, and files that hold more than a secret: the message says where, and never what.

What is looked at is what a person gets: every message passes `blank` on its way out, from commands, pages and the log.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from canaries import Canaries
from neon_bench import RudeServer, a_bench, says
from test_secret import a_new_key, a_signing_secret, an_old_key

from rotator.config import load
from rotator.errors import ConfigError, RotatorError
from rotator.secret import blank

KINDS = {"new": a_new_key, "old": an_old_key, "signing": a_signing_secret}
SOUND = """
neon: {api_key: {file: key}}
sinks: {app: {type: file, path: app.env}}
policies: {ci: {rotate: {every: 30d}, deliver_to: [app]}}
"""
PLACES = {
    "the management key": 'neon: {{api_key: "{0}"}}',
    "a list of them": 'neon: {{api_key: ["{0}", {{file: "{0}"}}]}}',
    "a variable's name": 'neon: {{api_key: {{env: "{0}"}}}}',
    "a credential's name": 'neon: {{api_key: {{credential: "{0}"}}}}',
    "a reference with more": 'neon: {{api_key: {{file: key, value: "{0}"}}}}',
    "a key of a mapping": 'neon: {{api_key: {{file: key}}, "{0}": 1}}',
    "a section": '"{0}": {{a: "{0}"}}',
    "a repeated key": '"{0}": 1\n"{0}": 2',
    "a number's place": 'neon: {{api_key: {{file: key}}, requests_per_minute: "{0}", api_key_id: "{0}"}}',
    "a URL's user": 'neon: {{api_key: {{file: key}}, api_url: "https://{0}@console.neon.tech/"}}',
    "a URL's query": 'neon: {{api_key: {{file: key}}, api_url: "https://console.neon.tech/?key={0}"}}',
    "a URL's host": 'neon: {{api_key: {{file: key}}, api_url: "http://{0}/"}}',
    "the state's user": 'state: "postgresql://me:{0}@host/db"',
    "the state's kind": 'state: "{0}://host/db"',
    "an address": 'listen: "{0}:1"',
    "a policy's name": 'policies: {{"{0}": {{rotate: {{every: 30d}}, deliver_to: ["{0}"]}}}}',
    "a sink's name": 'sinks: {{"{0}": {{type: file, path: x}}}}',
    "a sink's type": 'sinks: {{app: {{type: "{0}"}}}}',
    "a mode": 'sinks: {{app: {{type: file, path: x, mode: "{0}", owner: "{0}:x"}}}}',
    "a webhook's user": 'sinks: {{h: {{type: webhook, url: "https://{0}:{0}@host/", signing_secret: {{env: X}}}}}}',
    "a webhook's secret": 'sinks: {{h: {{type: webhook, url: "https://host/{0}", signing_secret: ["{0}"]}}}}',
    "a command line": 'sinks: {{c: {{type: command, run: "curl -H {0}"}}}}',
    "a duration": 'policies: {{ci: {{rotate: {{every: "{0}"}}, deliver_to: [app]}}}}',
    "a cron expression": 'policies: {{ci: {{rotate: {{cron: "{0}", timezone: "{0}"}}, deliver_to: [app]}}}}',
    "a scope": 'policies: {{ci: {{scope: "{0}", rotate: {{every: 1d}}, deliver_to: [app], on_missing: "{0}"}}}}',
    "notify": 'notify: ["{0}"]',
    "an anchor": 'neon: {{api_key: &{1} "{0}"}}',
    "an alias": "neon: {{api_key: *{1}}}",
    "a tag": 'neon: {{api_key: !{1} "{0}"}}',
    "a second document": 'neon: {{api_key: {{file: k}}}}\n---\n"{0}"',
    "a quotation that is not closed": 'neon: {{api_key: "{0}',
    "a bracket that is not closed": 'neon: {{api_key: ["{0}", {{',
    "a line that is none": 'neon:\n  api_key: "{0}" "{0}"\n {0}: x',
    "a tab": "neon:\n\tapi_key: {0}",
    "a directive": "%{1} {0}\n---\nneon: 1",
    "no mapping at all": "{0}",
    "a control character": "neon: \x01{0}",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_secret_in_the_configuration_is_refused_and_not_repeated(tmp_path: Path, place: str, kind: str) -> None:
    secret = KINDS[kind]()
    (tmp_path / "config.yaml").write_text(place.format(secret, "".join(c for c in secret if c.isalnum())))
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "config.yaml", {})
    told = [blank(str(problem)) for problem in refused.value.problems]
    told.append(blank(json.dumps([vars(problem) for problem in refused.value.problems])))
    told += [blank(str(refused.value)), blank(repr(refused.value))]
    assert Canaries({"it": secret}).found_in("\n".join(told)) == set()
    assert all("config.yaml:" in line for line in told[:-3])


def test_a_secret_in_the_name_of_a_file_is_not_repeated(tmp_path: Path) -> None:
    for kind in KINDS.values():
        secret = kind().replace("/", "")
        folder = tmp_path / "made" / secret
        folder.mkdir(parents=True)
        for name in (f"{secret}.yaml", "config.yaml"):
            (folder / name).write_text(f"state: {secret}")
            with pytest.raises(ConfigError) as refused:
                load(folder / name, {})
            assert Canaries({"it": secret}).found_in(blank(str(refused.value))) == set()


# Files with a secret in them

CONTENTS = {
    "two words": "{0} {0}",
    "two lines": "{0}\n{0}\n",
    "an assignment": "NEON_API_KEY = {0}",
    "JSON": '{{"api_key": "{0}"}}',
    "a quotation": '"{0}"',
    "a NUL": "{0}\0x",
    "a control character": "{0}\x01",
    "a carriage return": "{0}\rX-Header: {0}",
    "not ASCII": "{0}é",
    "UTF-16": "\ufeff{0}",
    "a private key": "-----BEGIN KEY-----\n{0}\n-----END KEY-----",
    "very much": "{0}" * 20_000,
    "a line end of another system": "{0}\r\n",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_a_file_with_more_in_it_than_a_secret_is_not_quoted(tmp_path: Path, content: str, kind: str) -> None:
    secret = KINDS[kind]()
    with RudeServer(says(b"{}", "401 Unauthorized")) as server:
        bench = a_bench(server.url, tmp_path, "x")
        coding = "utf-16" if content.startswith("\ufeff") else "utf-8"
        bench.key_file.write_bytes(content.format(secret).encode(coding))
        with pytest.raises(RotatorError) as refused:
            bench.neon.list_keys("personal")
    said = f"{refused.value} {refused.value!r} {refused.value.__context__!r} {bench.neon.calls}"
    assert Canaries({"it": secret}).found_in(said) == set()
    assert str(bench.key_file) in said or "could not be asked" in said
