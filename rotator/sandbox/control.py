"""The control API of the sandbox, for tests and people in another process; on loopback only.

    GET, POST, DELETE /_sandbox/faults     what is armed; arm one or a list; disarm all
    GET, POST         /_sandbox/keys       every living key, without secrets; make one as if in the Console
    DELETE            /_sandbox/keys/ID    revoke one as if in the Console
    GET               /_sandbox/stats      answers by route and status
    POST              /_sandbox/clock      {"offset": seconds}: shift Neon's clock

Making a key shows its secret once, as the Console does; nothing else here shows any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rotator.sandbox.account import Refused, rfc3339
from rotator.sandbox.api import Answer, error
from rotator.sandbox.faults import parse

if TYPE_CHECKING:
    from rotator.sandbox.server import Sandbox

BASE_PATH = "/_sandbox/"
KEY_FIELDS = ("name", "organization", "project")


def answer(sandbox: Sandbox, method: str, path: str, body: bytes, request_id: str) -> Answer:
    """Serve one request below `BASE_PATH`. A mistake in it is 400 with a sentence."""
    try:
        return Answer(200, _act(sandbox, method, path.removeprefix(BASE_PATH), body))
    except Refused as refusal:
        return error(refusal.status, refusal.message, request_id)
    except ValueError as problem:  # FaultError among them
        return error(400, str(problem), request_id)


def _act(sandbox: Sandbox, method: str, path: str, body: bytes) -> object:
    match method, path.split("/"):
        case "GET", ["faults"]:
            return sandbox.faults()
        case "POST", ["faults"]:
            specs = _json(body)
            # All or none: a list with a mistake in it arms nothing.
            sandbox.arm([parse(spec) for spec in (specs if isinstance(specs, list) else [specs])])
            return sandbox.faults()
        case "DELETE", ["faults"]:
            return {"cleared": sandbox.clear_faults()}
        case "GET", ["keys"]:
            living = sandbox.keys()
            return [key.as_json() for key in living]
        case "POST", ["keys"]:
            return _create(sandbox, _fields(_json(body), KEY_FIELDS))
        case "DELETE", ["keys", key_id] if key_id.isdecimal() and len(key_id) <= 18:
            return sandbox.revoke_key(int(key_id)).as_json()
        case "GET", ["stats"]:
            return sandbox.stats()
        case "POST", ["clock"]:
            sandbox.set_clock(_offset(_fields(_json(body), ("offset",))))
            return {"now": rfc3339(sandbox.clock())}
        case _:
            raise Refused(404, "the control API has faults, keys, keys/ID, stats and clock")


def _create(sandbox: Sandbox, wanted: Mapping[str, object]) -> object:
    texts = {}
    for name, value in wanted.items():
        if value is not None and not isinstance(value, str):
            raise Refused(400, f"{name} must be a string")
        texts[name] = value
    key = sandbox.create_key(texts.get("name") or "", texts.get("organization"), texts.get("project"))
    return {**key.as_json(), "key": sandbox.secret_of(key.id)}


def _offset(fields: Mapping[str, object]) -> float:
    offset = fields.get("offset")
    if isinstance(offset, bool) or not isinstance(offset, int | float):
        raise Refused(400, 'the clock takes {"offset": SECONDS}')
    return offset


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the request body is not valid JSON") from None


def _fields(value: object, allowed: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, dict) or not value.keys() <= set(allowed):
        raise Refused(400, f"expected a JSON object with: {', '.join(allowed)}")
    return value
