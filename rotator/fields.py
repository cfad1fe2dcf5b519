"""The kinds of values that a configuration is made of: durations, paths, references to secrets.

They are pydantic types, shared by `config.py` and by the settings of each sink, so that a sink of
another package says what it needs in the same words and its faults are reported with the same
places. What a value means outside itself comes in through the validation context: `base`, the
folder of the configuration file, and `environ`, the variables of the process.

A message never repeats the value of a field that may hold a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, WithJsonSchema, model_validator

from rotator.errors import NeedsPerson
from rotator.secret import Secret

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(?:[0-9]{1,9}[smhdw])+")
_PART = re.compile(r"(\d+)([smhdw])")
_LONGEST = timedelta(days=3660)
_LARGEST_SECRET = 4096  # bytes; no key has a tenth of it, and another file may be without end
DURATION_EXPECTED = "expected a duration such as 90s, 15m, 12h, 30d, 2w or 1d12h"
SECRET_EXPECTED = "expected {env: NAME}, {file: PATH} or {credential: NAME}; a secret is never written in this file"


def parse_duration(text: str) -> timedelta:
    """`90s`, `15m`, `12h`, `30d`, `2w` or a sum like `1d12h`. Raises ValueError, at most ten years."""
    if not _DURATION.fullmatch(text):
        raise ValueError(DURATION_EXPECTED)
    total = timedelta()
    for number, unit in _PART.findall(text):
        total += timedelta(**{_UNITS[unit]: int(number)})
    if total > _LONGEST:
        raise ValueError("expected a duration of at most ten years")
    return total


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError(DURATION_EXPECTED)


def read_start(path: Path, most: int) -> bytes:
    """The first bytes of a file, at most so many. Does not wait for somebody to open the other end of a named pipe."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        os.set_blocking(stream.fileno(), True)
        return stream.read(most)


def base_of(info: ValidationInfo) -> Path:
    """The folder that relative paths start from."""
    context: Mapping[str, Any] = info.context or {}
    return Path(context.get("base", "."))


def environ_of(info: ValidationInfo) -> Mapping[str, str] | None:
    """The variables that a reference may name; None if it may name any."""
    context: Mapping[str, Any] = info.context or {}
    environ: Mapping[str, str] | None = context.get("environ", os.environ)
    return environ


def files_of(info: ValidationInfo) -> bool:
    """Whether the files that references name must be there."""
    return bool((info.context or {}).get("files"))


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError("expected a path")
    if "\0" in str(value):
        raise ValueError("expected a path without a NUL")
    return base_of(info) / value


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": r"^([0-9]+[smhdw])+$", "examples": ["90s", "15m", "30d", "1d12h"]}),
]
ConfigPath = Annotated[Path, BeforeValidator(_path), WithJsonSchema({"type": "string", "minLength": 1})]


class Settings(BaseModel):
    """A mapping of the configuration: unknown keys are faults, values are never shown in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class SecretRef(Settings):
    """Where a secret is: an environment variable, a file, or one of systemd's credentials."""

    env: str | None = None
    file: ConfigPath | None = None
    credential: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_a_reference(cls, value: object) -> object:
        names = {"env", "file", "credential"}
        if not isinstance(value, dict) or len(value) != 1 or not set(value) <= names or None in value.values():
            raise ValueError(SECRET_EXPECTED)
        if any(str(place).startswith(("napi_", "whsec_")) for place in value.values()):
            raise ValueError(f"this looks like the secret itself; {SECRET_EXPECTED}")
        return value

    @model_validator(mode="after")
    def _is_there(self, info: ValidationInfo) -> SecretRef:
        if self.env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.env):
            raise ValueError("expected the name of an environment variable, of letters, digits and _")
        environ = environ_of(info)
        if self.env is not None and environ is not None and not environ.get(self.env):
            raise ValueError(f"the environment variable {self.env} is not set; set it or name another")
        if self.credential is not None and (not self.credential or "/" in self.credential):
            raise ValueError("expected the name of a credential, without a slash")
        if self.path is not None and files_of(info):
            try:
                self.path.stat()
            except (FileNotFoundError, NotADirectoryError):
                raise ValueError(f"{self} is not there; create it with the secret in it, or name another") from None
            except OSError:  # this user cannot see it; perhaps the service can
                pass
        return self

    @property
    def path(self) -> Path | None:
        """The file that is read, or None for an environment variable."""
        if self.file is not None:
            return self.file
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        return Path(folder) / self.credential if self.credential and folder else None

    def __str__(self) -> str:
        if self.env is not None:
            return f"environment variable {self.env}"
        return f"credential {self.credential}" if self.credential is not None else f"file {self.file}"

    def read(self) -> Secret:
        """The secret, without surrounding white space. Raises NeedsPerson, saying what to do."""
        text = self._text()
        if len(text) > _LARGEST_SECRET:
            raise NeedsPerson(f"{self} is larger than {_LARGEST_SECRET} bytes", "put the secret alone in it")
        text = text.strip()
        if self.env is not None and not text:
            raise NeedsPerson(f"the environment variable {self.env} is not set", "set it or name another")
        if not text:
            raise NeedsPerson(f"{self} is empty", "put the secret in it")
        if not text.isascii() or any(character.isspace() for character in text):
            raise NeedsPerson(f"{self} holds more than one word", "put the secret alone in it")
        return Secret(text)

    def _text(self) -> str:
        if self.env is not None:
            return os.environ.get(self.env, "")
        if self.path is None:
            raise NeedsPerson(
                f"credential {self.credential} cannot be read: CREDENTIALS_DIRECTORY is not set",
                "start the service by systemd with LoadCredential=, or use {file: PATH}",
            )
        try:
            return read_start(self.path, _LARGEST_SECRET + 1).decode("ascii", "replace")
        except OSError as error:
            reason = error.strerror
        raise NeedsPerson(f"{self} cannot be read: {reason}", "create it with the secret in it, readable by this user")
