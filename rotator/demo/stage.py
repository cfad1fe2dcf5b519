"""What the demo sets up: a folder of its own, the configuration, and everyone whom it names."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rotator.demo.consumers import Consumer, key_in_file
from rotator.demo.receiver import Receiver
from rotator.sandbox import Sandbox

EVERY: Mapping[str, int] = {"web-app": 6, "ci": 9}
GRACE = 3
VARIABLE = "NEON_API_KEY"
SIGNING_VARIABLE = "CI_HOOK_SECRET"
LEAST_SECONDS = 12
_KEY_FILE = "neon-admin-key"
_ENV_FILE = "web-app.env"


@dataclass(frozen=True)
class Stage:
    """A folder with a configuration in it, and the consumers of what its policies rotate."""

    folder: Path
    config: Path
    consumers: tuple[Consumer, Consumer]
    secrets: Mapping[str, str]


def set_up(folder: Path, neon: Sandbox, receiver: Receiver) -> Stage:
    """Write the management key and the configuration into the folder. Both servers must be listening."""
    _write(folder / _KEY_FILE, neon.management_key + "\n")
    config = folder / "config.yaml"
    _write(config, configuration(neon, receiver))
    consumers = (
        Consumer("web-app", neon.url, key_in_file(folder / _ENV_FILE, VARIABLE)),
        Consumer("ci", neon.url, receiver.key),
    )
    return Stage(folder, config, consumers, {SIGNING_VARIABLE: receiver.signing_secret})


def configuration(neon: Sandbox, receiver: Receiver) -> str:
    """The YAML. Two seconds without a use end the hold on an old key: less than the grace period, since Neon's
    times are whole seconds, so that an old key which nobody uses goes when its grace does."""
    return textwrap.dedent(f"""\
        neon:
          api_key: {{file: {_KEY_FILE}}}
          api_key_id: {neon.management_key_id}
          api_url: {neon.url}
          poll_every: 1s
        sinks:
          env-file: {{type: file, path: {_ENV_FILE}, format: dotenv, variable: {VARIABLE}}}
          ci-hook: {{type: webhook, url: "{receiver.url}", signing_secret: {{env: {SIGNING_VARIABLE}}}}}
        policies:
          web-app:
            rotate: {{every: {EVERY["web-app"]}s}}
            grace_period: {GRACE}s
            hold: {{while_old_key_used_within: 2s}}
            deliver_to: [env-file]
          ci:
            rotate: {{every: {EVERY["ci"]}s}}
            grace_period: {GRACE}s
            hold: {{while_old_key_used_within: 2s}}
            deliver_to: [ci-hook]
        """)


def _write(path: Path, text: str) -> None:
    """A new file that nobody else may read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
