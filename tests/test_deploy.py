"""Holds deploy/ to the programs: what it starts can be started so, times outlast drains, limits fit, nothing is open.

Nothing here needs Docker, a running systemd or the network. `make build` tries what does, in deploy/test_install.py.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from zbroker.cli.program import program as zbroker
from zbroker.config import SETTINGS, Config, load_config
from zclient.cli.program import program as zclient
from zclient.durations import parse_duration
from zworker.cli.program import program as zworker

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
PROGRAMS: dict[str, click.Group] = {"zbroker": zbroker, "zworker": zworker, "zclient": zclient}

INSTALLED = "/usr/local/lib/zbroker/bin/"
"""Where the units look for the programs."""

OTHER_FILES = 400
"""What a broker opens beside one file for each connection; docs/operating.md, limits of the host."""

DOCKER_STOP_S = 10
"""What `docker stop` waits for, unless it is told."""


# ---- reading


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values, in order."""
    found: dict[str, list[str]] = {}
    for line in text(name).splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def only(name: str, key: str) -> str:
    (value,) = unit(name)[key]
    return value


class Instruction(NamedTuple):
    """One instruction of the Dockerfile."""

    name: str
    flags: list[str]
    rest: str

    def words(self) -> list[str]:
        """What it is told, in either form."""
        return json.loads(self.rest) if self.rest.startswith("[") else shlex.split(self.rest)


def stages() -> list[list[Instruction]]:
    """The Dockerfile, a list for each FROM. Of its language this knows what ours uses: no line goes on in the next."""
    found: list[list[Instruction]] = []
    for line in text("Dockerfile").splitlines():
        if line and not line.startswith("#"):
            name, *words = line.split(" ")
            flags = [word for word in words if word.startswith("--")] if name in ("COPY", "HEALTHCHECK") else []
            rest = line.removeprefix(" ".join([name, *flags])).strip()
            if name == "FROM":
                found.append([])
            found[-1].append(Instruction(name, flags, rest))
    return found


def image(name: str) -> Instruction:
    """The only instruction of this name for the image itself, which is the last stage."""
    (found,) = [instruction for instruction in stages()[-1] if instruction.name == name]
    return found


def health_check() -> list[str]:
    """The command that asks whether the container is well."""
    kind, _, command = image("HEALTHCHECK").rest.partition(" ")
    assert kind == "CMD"
    return json.loads(command)


def compose() -> dict[str, Any]:
    return yaml.safe_load(text("compose.yaml"))


def service(name: str) -> dict[str, Any]:
    return compose()["services"][name]


def test_the_readme_names_every_file() -> None:
    named = re.findall(r"^\| \[([^]]+)\]\(\1\)", text("README.md"), re.MULTILINE)
    there = [path.name for path in DEPLOY.iterdir() if path.is_file()]
    assert sorted([*named, "README.md"]) == sorted(there)


# ---- what is started


def of_unit(name: str) -> list[str]:
    """The command of a unit, as it is for the module `tasks` with the options that its comment shows."""
    shown = re.search(r"^# +ZWORKER_OPTIONS=(.*)$", text(name), re.MULTILINE)
    command = only(name, "ExecStart").replace("%i", "tasks")
    return shlex.split(command.replace("$ZWORKER_OPTIONS", shown[1] if shown else ""))


COMMANDS = {
    "zbroker.service": of_unit("zbroker.service"),
    "zworker@.service": of_unit("zworker@.service"),
    "image": image("ENTRYPOINT").words(),
    "health check": health_check(),
    "compose worker": service("worker")["entrypoint"] + service("worker")["command"],
}


def options(command: list[str]) -> dict[str, Any]:
    """What a program would read from its command line; a usage error if it would not take it."""
    group = PROGRAMS[Path(command[0]).name]
    with click.Context(group) as parent:
        verb = group.get_command(parent, command[1])
        assert verb is not None
        return verb.make_context(command[1], command[2:], parent=parent).params


def config(where: str, environment: dict[str, str], file: Path | None) -> Config:
    """The settings that a broker would run with."""
    given = {name: value or None for name, value in options(COMMANDS[where]).items() if name in SETTINGS}
    return load_config(given, environment, file)


def under_systemd() -> Config:
    return config("zbroker.service", {}, DEPLOY / "zbroker.toml")


def in_compose() -> Config:
    return config("image", service("broker")["environment"], None)


@pytest.mark.parametrize("where", COMMANDS)
def test_the_programs_take_the_options_that_they_are_given(where: str) -> None:
    options(COMMANDS[where])
    with pytest.raises(click.UsageError):
        options([*COMMANDS[where], "--no-such-option"])


@pytest.mark.parametrize("name", ["zbroker.service", "zworker@.service"])
def test_the_units_start_what_is_installed_where_their_comments_say(name: str) -> None:
    assert only(name, "ExecStart").startswith(INSTALLED)
    assert re.search(rf"^#.*\s{INSTALLED.removesuffix('/bin/')}(;|$)", text(name), re.MULTILINE)


# ---- settings


def test_the_example_names_every_setting_and_shows_the_defaults() -> None:
    lines = re.findall(r"^#? ?([a-z_]+ = .*)$", text("zbroker.toml"), re.MULTILINE)
    shown = tomllib.loads("\n".join(lines))
    assert shown.keys() == SETTINGS.keys()
    example, default = load_config(shown, {}), load_config({}, {})
    assert {name: example[name] for name in SETTINGS} == {name: default[name] for name in SETTINGS}


def test_the_unit_reads_the_example_from_where_it_is_put() -> None:
    assert options(COMMANDS["zbroker.service"])["config_file"] == "/etc/zbroker/zbroker.toml"
    assert under_systemd()["bind"] == ("tcp://127.0.0.1:5555",)
    assert under_systemd()["data"] == f"/var/lib/{only('zbroker.service', 'StateDirectory')}"


def test_what_compose_sets_for_the_broker_are_settings_that_the_image_leaves_open() -> None:
    sources = in_compose().sources.values()
    assert [name for name in service("broker")["environment"] if name not in sources] == []


def test_a_stop_outlasts_the_drain() -> None:
    assert parse_duration(only("zbroker.service", "TimeoutStopSec")) * 1000 > under_systemd()["drain_timeout"]
    assert parse_duration(service("broker")["stop_grace_period"]) * 1000 > in_compose()["drain_timeout"]
    assert config("image", {}, None)["drain_timeout"] < DOCKER_STOP_S * 1000
    drain = options(COMMANDS["zworker@.service"])["drain_timeout"]
    assert parse_duration(only("zworker@.service", "TimeoutStopSec")) > drain
    drain = options(COMMANDS["compose worker"])["drain_timeout"]
    assert parse_duration(service("worker")["stop_grace_period"]) > drain


def test_there_are_files_for_all_peers() -> None:
    assert int(only("zbroker.service", "LimitNOFILE")) == under_systemd()["max_peers"] + OTHER_FILES
    assert service("broker")["ulimits"]["nofile"] == in_compose()["max_peers"] + OTHER_FILES


# ---- systemd


def test_only_the_first_process_of_a_worker_is_told_to_drain() -> None:
    # It passes the signal on; to a process that got both, the second one would mean: at once.
    assert only("zworker@.service", "KillMode") == "mixed"


def test_libzmq_may_set_the_scheduling_of_its_threads() -> None:
    # sched_setscheduler is in @resources; libzmq aborts the process where it is refused.
    assert [line for line in unit("zbroker.service")["SystemCallFilter"] if "@resources" in line] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this host has no systemd to ask")
@pytest.mark.parametrize(("name", "exposure"), [("zbroker.service", 20), ("zworker@tasks.service", 40)])
def test_systemd_takes_the_units(name: str, exposure: int, tmp_path: Path) -> None:
    for file in ("zbroker.service", "zworker@.service"):
        # It looks whether the program is there, so it gets one that is.
        written = re.sub(rf"{INSTALLED}\w+", sys.executable, text(file))
        (tmp_path / file).write_text(written.replace("/srv/zworker", str(tmp_path)))
    for step in (["verify", "--man=no"], ["security", "--offline=true", f"--threshold={exposure}", "--no-pager"]):
        result = subprocess.run(
            ["systemd-analyze", *step, str(tmp_path / name)], capture_output=True, text=True, timeout=30, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        # `verify` only warns of a setting that it does not know.
        assert str(tmp_path) not in result.stderr


# ---- the image


def test_the_image_holds_what_the_wheel_holds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = [word for step in stages()[0] if step.name == "COPY" for word in step.words()[:-1]]
    needed = [*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "pyproject.toml"]
    needed += [project["project"]["readme"], *project["project"]["license-files"]]
    assert sorted(copied) == sorted(needed)
    sent = [line[1:] for line in text("Dockerfile.dockerignore").splitlines() if line.startswith("!")]
    assert sorted(sent) == sorted(needed)


def test_the_image_is_two_stages_of_one_python_that_we_support() -> None:
    bases = [stage[0].words()[0] for stage in stages()]
    assert len(bases) == 2 and len(set(bases)) == 1
    version = re.fullmatch(r"python:3\.(\d+)-slim", bases[0])
    assert (
        version
        and f">=3.{version[1]}" == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    assert [(step.flags, step.words()) for step in stages()[-1] if step.name == "COPY"] == [
        (["--from=build"], ["/app", "/app"])
    ]
    assert all("--no-cache-dir" in step.rest for step in stages()[0] if "pip install" in step.rest)


def test_the_image_runs_as_a_user_of_its_own_who_owns_the_volume() -> None:
    steps = stages()[-1]
    made = [step.words() for step in steps if step.name == "RUN"]
    user = image("USER").rest
    assert [words[-1] for words in made if words[0] == "useradd"] == [user]
    (volume,) = [words for words in made if words[0] == "install"]
    assert (volume[-1], f"--owner={user}" in volume) == (image("VOLUME").rest, True)
    assert options(COMMANDS["image"])["data"] == image("VOLUME").rest
    # What a stage makes in a volume after it was declared is thrown away.
    assert [step.name for step in steps].index("VOLUME") > max(n for n, step in enumerate(steps) if step.name == "RUN")
    assert options(COMMANDS["image"])["bind"] == (f"tcp://0.0.0.0:{image('EXPOSE').rest}",)


def test_the_health_check_has_an_answer_before_docker_gives_up_on_it() -> None:
    (patience,) = [flag.partition("=")[2] for flag in image("HEALTHCHECK").flags if flag.startswith("--timeout=")]
    own = health_check()[health_check().index("--timeout") + 1]
    assert parse_duration(own) < parse_duration(patience)


def test_what_the_image_starts_answers_its_health_check_and_stops_when_told(tmp_path: Path) -> None:
    here = {"/data": str(tmp_path / "data"), "tcp://0.0.0.0:5555": "tcp://127.0.0.1:*"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ZBROKER_")}

    def command(words: list[str]) -> list[str]:
        return [sys.executable, "-m", *(here.get(word, word) for word in words)]

    with subprocess.Popen(
        command(COMMANDS["image"]), cwd=tmp_path, env=clean, stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdout is not None
            word, endpoint = run.stdout.readline().split()
            assert word == "ready"

            def healthy() -> bool:
                asked = {**clean, "ZBROKER_ENDPOINT": endpoint}
                ask = subprocess.run(command(health_check()), cwd=tmp_path, env=asked, timeout=30, check=False)
                return ask.returncode == 0

            assert healthy()
            run.send_signal(signal.Signals[image("STOPSIGNAL").rest])
            assert run.wait(timeout=DOCKER_STOP_S) == 0
            assert not healthy()
        finally:
            run.kill()


# ---- compose


def test_a_broker_that_asks_nobody_who_he_is_can_be_reached_by_its_own_network_only() -> None:
    assert in_compose()["insecure"]
    broker, networks = service("broker"), compose()["networks"]
    assert "ports" not in broker and "network_mode" not in broker
    assert [name for name in broker["networks"] if not (networks[name] or {}).get("internal")] == []


def test_the_workers_find_the_broker_and_their_tasks() -> None:
    worker = service("worker")
    host, _, port = worker["environment"]["ZBROKER_ENDPOINT"].removeprefix("tcp://").partition(":")
    assert set(worker["networks"]) & set(service(host)["networks"])
    assert port == image("EXPOSE").rest
    folder, mounted, mode = worker["volumes"][0].split(":")
    assert (mounted, mode) == (worker["working_dir"], "ro")
    module = options(COMMANDS["compose worker"])["target"]
    assert (DEPLOY / folder / f"{module}.py").is_file()


def test_the_workers_wait_for_a_healthy_broker_and_can_be_many() -> None:
    worker, broker = service("worker"), service("broker")
    assert worker["depends_on"] == {"broker": {"condition": "service_healthy"}}
    assert "healthcheck" not in broker, "the image's own holds for it"
    assert worker["deploy"]["replicas"] > 1 and "container_name" not in worker
    assert broker["volumes"] == [f"{next(iter(compose()['volumes']))}:{image('VOLUME').rest}"]
    build = broker["build"]
    assert worker["build"] == build and worker["image"] == broker["image"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
