"""The unit, the Dockerfile and docs/deploy.md agree with the program, with each other, and with systemd."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from rotator.cli import COMMANDS
from rotator.commands.common import DEFAULT_FILES
from rotator.config import load
from rotator.sandbox import Sandbox
from rotator.sinks.supervisor import children_of

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "rotator.service"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PAGE = (ROOT / "docs" / "deploy.md").read_text()
SCRIPT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
STATE = Path("/var/lib/rotator/state.db")
INSTALLED = "/opt/rotator/bin/rotator"
STOPS_WITHIN = 10
HIGHEST_EXPOSURE = 15  # tenths

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def blocks(language: str, mark: str = "") -> list[str]:
    """The fenced blocks of a language in docs/deploy.md; with a mark, those that follow this comment."""
    before = rf"<!-- {mark} -->\n" if mark else ""
    return re.findall(rf"{before}```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


class TestTheUnit:
    @pytest.fixture
    def settings(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in UNIT.read_text().splitlines():
            if line and line[0] not in "#[":
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
        return found

    def test_it_starts_the_service_with_a_configuration_that_commands_find_too(
        self, settings: dict[str, list[str]]
    ) -> None:
        (start,) = settings["ExecStart"]
        program, command, option, file = start.split()
        assert program == INSTALLED
        assert Path(program).name in SCRIPT
        assert (command, option) == ("run", "-c")
        assert file in DEFAULT_FILES
        assert f" {file} " in PAGE

    def test_a_reload_checks_the_file_and_then_hangs_up(self, settings: dict[str, list[str]]) -> None:
        file = settings["ExecStart"][0].split()[-1]
        assert settings["ExecReload"] == [f"{INSTALLED} check -c {file}", "/bin/kill -HUP $MAINPID"]

    def test_the_credential_is_the_one_that_is_documented(self, settings: dict[str, list[str]]) -> None:
        (credential,) = settings["LoadCredential"]
        name, path = credential.split(":")
        assert f"api_key: {{credential: {name}}}" in PAGE
        assert f"/dev/stdin {path} " in PAGE
        assert f"CREDENTIALS_DIRECTORY={Path(path).parent} " in PAGE

    def test_the_state_is_where_the_configurations_have_it(self, settings: dict[str, list[str]]) -> None:
        (folder,) = settings["StateDirectory"]
        assert Path("/var/lib", folder) == STATE.parent
        assert yaml.safe_load((ROOT / "config.example.yaml").read_text())["state"] == f"sqlite:///{STATE}"
        assert settings["StateDirectoryMode"] == ["0700"]

    def test_a_faulty_configuration_is_not_tried_again(self, settings: dict[str, list[str]], tmp_path: Path) -> None:
        empty = tmp_path / "config.yaml"
        empty.write_text("{}\n")
        ended = subprocess.run([sys.executable, "-m", "rotator", "run", "-c", str(empty)], capture_output=True)
        assert settings["RestartPreventExitStatus"] == [str(ended.returncode)]

    def test_systemd_gives_the_service_the_time_that_it_takes_to_stop(self, settings: dict[str, list[str]]) -> None:
        (seconds,) = settings["TimeoutStopSec"]
        assert STOPS_WITHIN < int(seconds.removesuffix("s")) <= 2 * STOPS_WITHIN

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            pytest.param("Type", "notify", id="it is up when it says so"),
            pytest.param("NotifyAccess", "main", id="and no command may say so"),
            pytest.param("KillMode", "mixed", id="commands in hand may end first"),
            pytest.param("LimitCORE", "0", id="secrets are not dumped"),
            pytest.param("MemorySwapMax", "0", id="nor swapped out"),
            pytest.param("DynamicUser", "yes", id="it is nobody"),
        ],
    )
    def test_settings_that_others_rely_on(self, settings: dict[str, list[str]], name: str, value: str) -> None:
        assert settings[name] == [value]


@needs_systemd
class TestWhatSystemdSays:
    @pytest.fixture
    def unit(self, tmp_path: Path) -> Path:
        """The unit, with a program that is there."""
        program = tmp_path / "rotator"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        unit = tmp_path / UNIT.name
        unit.write_text(UNIT.read_text().replace(INSTALLED, str(program)))
        return unit

    @staticmethod
    def complaints(*units: Path) -> str:
        """What `systemd-analyze verify` has to say of these units, and not of those that they depend on."""
        command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        said = [line for line in ended.stderr.splitlines() if any(unit.stem in line for unit in units)]
        return "\n".join(said)

    def test_the_unit_is_sound(self, unit: Path) -> None:
        assert self.complaints(unit) == ""

    def test_a_mistake_would_show(self, unit: Path) -> None:
        """What the other tests here stand on."""
        folder = unit.with_name(unit.name + ".d")
        folder.mkdir()
        (folder / "changes.conf").write_text("[Service]\nProtectEverything=yes\n")
        assert "ProtectEverything" in self.complaints(unit)

    @pytest.mark.parametrize("change", blocks("ini", "drop-in"))
    def test_every_change_that_is_documented_is_sound(self, unit: Path, change: str) -> None:
        folder = unit.with_name(unit.name + ".d")
        folder.mkdir()
        (folder / "changes.conf").write_text(change)
        assert self.complaints(unit) == ""

    def test_the_units_that_are_documented_are_sound(self, tmp_path: Path) -> None:
        texts = {
            match[1]: text for text in blocks("ini") if (match := re.match(r"# /etc/systemd/system/(\S+)\n", text))
        }
        assert set(texts) == {"myapp-key.path", "myapp-key.service"}
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        assert self.complaints(*(tmp_path / name for name in texts)) == ""

    def test_it_is_exposed_to_little(self, unit: Path) -> None:
        command = ["systemd-analyze", "security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE}", "--no-pager"]
        ended = subprocess.run([*command, str(unit)], capture_output=True, text=True, timeout=60)
        if "offline" in ended.stderr:
            pytest.skip("this systemd-analyze cannot judge a unit that is not loaded")
        assert ended.returncode == 0, ended.stdout
        shown = re.search(r"scores ([0-9.]+) in", PAGE)
        assert shown is not None
        assert 10 * float(shown[1]) <= HIGHEST_EXPOSURE


class TestTheImage:
    @pytest.fixture
    def instructions(self) -> list[tuple[str, str]]:
        """The Dockerfile's instructions, each with what follows it."""
        lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
        joined = "\n".join(lines).replace("\\\n", " ").splitlines()
        return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined)]

    @staticmethod
    def last(instructions: list[tuple[str, str]], word: str) -> str:
        return [rest for name, rest in instructions if name == word][-1]

    def test_the_base_can_be_chosen(self, instructions: list[tuple[str, str]]) -> None:
        words = [word for word, _ in instructions]
        assert instructions[0][0] == "ARG"
        assert instructions[0][1].startswith("BASE=")
        assert words.count("FROM") == 2
        assert all(rest.split()[0] == "${BASE}" for word, rest in instructions if word == "FROM")

    def test_it_runs_the_service_without_a_shell_in_between(self, instructions: list[tuple[str, str]]) -> None:
        assert json.loads(self.last(instructions, "ENTRYPOINT")) == ["rotator"]
        command, option, file = json.loads(self.last(instructions, "CMD"))
        assert (command, option) == ("run", "-c")
        assert command in COMMANDS
        assert file in DEFAULT_FILES
        assert self.last(instructions, "STOPSIGNAL") == "SIGTERM"

    def test_it_does_not_run_as_root(self, instructions: list[tuple[str, str]]) -> None:
        user, group = self.last(instructions, "USER").split(":")
        assert int(user) > 0
        assert int(group) > 0
        assert f"as user {user}," in PAGE

    def test_the_state_is_on_a_volume(self, instructions: list[tuple[str, str]]) -> None:
        assert self.last(instructions, "VOLUME") == str(STATE.parent)
        assert f"--volume rotator-state:{STATE.parent} " in PAGE

    def test_it_is_made_of_files_that_are_there_and_sent(self, instructions: list[tuple[str, str]]) -> None:
        ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().split("\n")
        sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
        copied = [rest.split()[:-1] for word, rest in instructions if word == "COPY" and "--from" not in rest]
        names = [name.rstrip("/") for words in copied for name in words]
        assert sorted(names) == sorted(sent)
        assert "pyproject.toml" in names
        for name in names:
            assert (ROOT / name).exists(), name

    def test_no_secret_and_no_state_can_get_into_it(self) -> None:
        lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
        first, *_ = [line for line in lines if not line.startswith("#")]
        assert all(fnmatch(name, first) for name in ("config.yaml", "rotator.db", ".git", ".env"))


class TestThePage:
    @pytest.mark.parametrize("text", blocks("yaml"), ids=lambda text: text.splitlines()[0])
    def test_every_configuration_in_it_is_sound(self, tmp_path: Path, text: str) -> None:
        """What is left out is filled in."""
        part: dict[str, Any] = yaml.safe_load(text)
        if "type" in part:
            part = {"sinks": {"app": part}}
        whole: dict[str, Any] = {
            "neon": {"api_key": {"credential": "neon-api-key"}},
            "sinks": {"app": {"type": "file", "path": "/var/lib/rotator/keys/app"}},
            "policies": {"app": {"rotate": {"every": "30d"}, "deliver_to": ["app"]}},
        }
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(whole | part))
        assert load(file).policies

    def test_every_command_in_it_exists(self) -> None:
        given = re.findall(r"^(?:docker exec rotator )?rotator (\S+)", "".join(blocks("sh")), flags=re.MULTILINE)
        assert given
        assert set(given) <= set(COMMANDS)


def namespace() -> list[str]:
    """What makes the command that follows PID 1, or nothing if that cannot be done here."""
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *rights, "--pid", "--fork", "--mount-proc", "--kill-child"]
    try:
        ended = subprocess.run([*command, "true"], capture_output=True, timeout=30)
    except OSError:
        return []
    return command if ended.returncode == 0 else []


class TestAsTheFirstProcess:
    """PID 1 of a namespace, as in a container: what it does not handle is not handled, and orphans become its own."""

    @pytest.fixture
    def neon(self) -> Iterator[Sandbox]:
        with Sandbox() as neon:
            yield neon

    def test_it_ends_with_0_when_told_to_and_leaves_no_dead_processes(self, neon: Sandbox, tmp_path: Path) -> None:
        prefix = namespace()
        if not prefix:
            pytest.skip("no PID namespace can be made here")
        key, config, log = tmp_path / "key", tmp_path / "config.yaml", tmp_path / "log"
        key.write_text(neon.management_key)
        config.write_text(f"""
neon: {{api_key: {{file: key}}, api_url: "{neon.url}"}}
sinks:
  app: {{type: command, timeout: 2s, run: [sh, -c, "(setsid sleep 1 &); (setsid sleep 600 &); cat >/dev/null"]}}
policies:
  ci: {{rotate: {{every: 30d}}, deliver_to: [app]}}
""")
        with (
            log.open("wb") as lines,
            subprocess.Popen(
                [*prefix, sys.executable, "-m", "rotator", "run", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
            ) as unshare,
        ):
            try:
                wait_until(lambda: "rotation.live" in log.read_text(), unshare, log)
                (first,) = children_of(unshare.pid)
                assert status_of(first)["NSpid"].split()[-1] == "1"
                wait_until(lambda: not children_of(first), unshare, log)
                began = time.monotonic()
                os.kill(first, signal.SIGTERM)
                assert unshare.wait(STOPS_WITHIN + 5) == 0
                assert time.monotonic() - began < STOPS_WITHIN
            finally:
                unshare.kill()


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    """Wait for a condition, and give up when the process has ended or after so long."""
    give_up = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.05)


def status_of(process: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
