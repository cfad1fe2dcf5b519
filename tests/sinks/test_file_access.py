"""Who may use a file that is replaced: those who could before, unless the configuration says otherwise."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rotator.sinks.folder import ACL

from .builders import NOBODY, a_file_sink, as_nobody, deliver, mode_of, needs_root

OWNER, USER, GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
DEFAULT = "system.posix_acl_default"


def an_acl(reader: int = NOBODY) -> bytes:
    """rw- for the owner, r-- for one more user, nothing for the group and others."""
    entries = [(OWNER, 6, 0xFFFFFFFF), (USER, 4, reader), (GROUP, 0, 0xFFFFFFFF), (MASK, 4, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in [*entries, (OTHERS, 0, 0xFFFFFFFF)])


@pytest.fixture
def listed(open_folder: Path) -> Path:
    """A file that one more user may read."""
    path = open_folder / "neon.env"
    path.write_text("A=1\n")
    try:
        os.setxattr(path, ACL, an_acl())
    except OSError:
        pytest.skip("this file system has no access control lists")
    return path


@needs_root
def test_whom_an_access_control_list_lets_read_the_file_can_read_the_new_one(listed: Path) -> None:
    before = os.getxattr(listed, ACL)
    value = deliver(a_file_sink(listed, format="dotenv", variable="K", mode="0640")).reveal()
    assert os.getxattr(listed, ACL) == before
    with as_nobody():
        assert listed.read_text() == f"A=1\nK={value}\n"


@needs_root
def test_a_mode_caps_an_access_control_list_as_chmod_does(listed: Path) -> None:
    deliver(a_file_sink(listed, format="dotenv", variable="K", mode="0600"))
    assert mode_of(listed) == "0600"
    with as_nobody(), pytest.raises(PermissionError):
        listed.read_text()


@needs_root
def test_a_file_without_a_list_gets_none_from_its_folder(listed: Path) -> None:
    os.setxattr(listed.parent, DEFAULT, an_acl())
    path = listed.parent / "key"
    path.write_text("old")
    os.removexattr(path, ACL)
    path.chmod(0o640)
    deliver(a_file_sink(path, mode="0640"))
    assert ACL not in os.listxattr(path)


@pytest.mark.parametrize(
    ("before", "configured", "after"),
    [
        pytest.param(0o640, {}, "0640", id="a group may read it"),
        pytest.param(0o660, {}, "0660", id="a group may write it"),
        pytest.param(0o400, {}, "0400", id="nobody may write it"),
        pytest.param(0o2750, {}, "0640", id="nobody needs to execute it"),
        pytest.param(0o644, {}, "0600", id="everybody may read it"),
        pytest.param(0o662, {}, "0600", id="everybody may write it"),
        pytest.param(0o640, {"mode": "0600"}, "0600", id="the default, but written down"),
        pytest.param(0o600, {"mode": "0644"}, "0644", id="more open than it was"),
    ],
)
def test_a_file_that_is_closed_to_others_keeps_its_mode_unless_one_is_configured(
    tmp_path: Path, before: int, configured: dict[str, str], after: str
) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(before)
    sink = a_file_sink(path, **configured)
    sink.check()
    deliver(sink)
    assert mode_of(path) == after


@needs_root
@pytest.mark.fault(
    "Sinks",
    "A file's access control list cannot be kept, as when it names a user that the service's namespace lacks",
    "The sink is found not ready before a key is created: who can read the file now must not lose it.",
)
def test_a_list_that_cannot_be_kept_is_found_out_before_a_key_is_made(
    listed: Path, person_sees: Callable[[str], None]
) -> None:
    unshare = shutil.which("unshare")
    program = f"""if True:
        from rotator.errors import NeedsPerson
        from rotator.sinks.file import FileSink
        settings = dict(path={str(listed)!r}, mode="0640", owner="0", group="0", format="dotenv", variable="K")
        sink = FileSink("app", FileSink.Settings.model_validate(settings))
        try:
            sink.check()
        except NeedsPerson as error:
            print(error)
    """
    apart = [unshare or "", "--user", "--map-root-user"]
    if unshare is None or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespace can be made here")
    said = subprocess.run([*apart, sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"the access control list of {listed} cannot be kept: Invalid argument; ")
    person_sees(f"sink app is not ready: {said.strip()}")
