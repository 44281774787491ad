"""Options and variables become Settings, or one sentence."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.prepare.sandbox_policy import check_sandbox
from hkrunner.runner.settings.from_options import settings_of
from hkrunner.runner.settings.options import OPTIONS
from hkrunner.runner.settings.sandbox_options import Sandbox
from hkrunner.runner.settings.settings import Settings
from hkrunner.runner.settings.storage_settings import storage_settings
from hkrunner.runner.settings.worker_url import DEFAULT_URL, worker_url
from hkrunner.sandbox.shared.entry import Location

QUERY = "?storage=v1&encoding=json"


def made(**values: Any) -> Settings:
    defaults = {option.name: option.default for option in OPTIONS}
    return settings_of({**defaults, **values}, {})


def test_nothing_given_serves_the_default_worker() -> None:
    settings = made()
    assert not settings.local_run.is_local
    assert (settings.serving.url, settings.serving.grace_s) == (DEFAULT_URL + QUERY, 5.0)
    assert settings.serving.connect_timeout_s is None
    assert settings.records.state_dir is not None and settings.records.state_dir.endswith("/.hkrunner")


@pytest.mark.parametrize("values", [{"input": ("1",)}, {"tasks": "f"}, {"input": ("1", "2"), "tasks": "f"}])
def test_an_input_makes_a_local_run(values: dict[str, Any]) -> None:
    assert made(**values).local_run.is_local


def test_the_command_for_one_task_without_a_worker_works_as_it_stands(tmp_path: Path) -> None:
    assert made().local_command == "hkrunner --input '[1, 2, 3]'"
    (tmp_path / "alg.yml").write_text("name: sums\n")
    given = made(entry="my alg.py:f", path="src", file=str(tmp_path / "alg.yml")).local_command
    words = shlex.split(given)
    assert words[:6] == ["hkrunner", "--entry", "my alg.py:f", "--path", "src", "--file"]
    assert Path(words[6]).resolve() == tmp_path / "alg.yml" and words[7:] == ["--input", "[1, 2, 3]"]


def test_the_place_of_the_storage_is_absolute_and_a_url() -> None:
    assert storage_settings({"BASE_FS_ADAPTER_DIRECTORY": "here"}, 1.0).folder == str(Path.cwd() / "here")
    with pytest.raises(SettingsError, match=r"^S3_ENDPOINT_URL=minio:9000 does not begin with http://"):
        storage_settings({"DEFAULT_STORAGE": "s3", "S3_ENDPOINT_URL": "minio:9000"}, 1.0)


def test_no_state_means_no_folder() -> None:
    assert made(no_state=True).records.state_dir is None


def test_serving_keeps_its_latest_records_and_no_large_values() -> None:
    def kept(**values: Any) -> tuple[int | None, int | None, int | None]:
        records = made(**values).records
        return records.keep, records.keep_own, records.keep_values_bytes

    assert kept() == (None, 1000, 256 * 1024)
    assert kept(input=("1",)) == (None, None, None)
    assert kept(keep="5", keep_values="1Mi") == (5, None, 1 << 20)
    assert kept(keep="all", keep_values="all") == (None, None, None)
    assert kept(keep_values="0")[2] == 0
    with pytest.raises(SettingsError, match="--keep-values much"):
        made(keep_values="much")


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("2.5", 2.5), ("1e3", 1000.0), (7, 7.0)])
def test_seconds_are_numbers(text: Any, seconds: float) -> None:
    assert made(grace_s=text).serving.grace_s == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "nan", "inf", "1e10", "5s", pytest.param(10**400, id="huge")]
)
def test_an_invalid_number_of_seconds_is_reported(text: Any) -> None:
    with pytest.raises(SettingsError, match=rf"^--grace wants a number of seconds.*{text}"):
        made(grace_s=text)


def test_variables_for_the_algorithm() -> None:
    assert made(env=("A=1", "B=x=y", "C=")).code.variables == {"A": "1", "B": "x=y", "C": ""}


@pytest.mark.parametrize("pair", ["=1", ""])
def test_a_variable_without_a_name_is_reported(pair: str) -> None:
    with pytest.raises(SettingsError, match=f"^--env wants NAME=VALUE or NAME, not '{pair}'"):
        made(env=(pair,))


def test_a_variable_without_a_value_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED_ON", "x")
    assert made(env=("PASSED_ON",)).code.variables == {"PASSED_ON": "x"}
    monkeypatch.delenv("PASSED_ON")
    with pytest.raises(SettingsError, match=r"^--env PASSED_ON: there is no such variable"):
        made(env=("PASSED_ON",))


def test_a_sandbox_has_absolute_paths_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    wanted = Sandbox("ns", (str(tmp_path / "data"),), (str(tmp_path),), network=True)
    found = made(sandbox="strict", sandbox_level="ns", read=("data",), write=(".",), net=("all",))
    assert found.sandbox == wanted
    opened = made(sandbox="strict", net=("DB.example.:5432", "[::1]:80", "db.example:5432", "10.0.0.1:1"))
    assert opened.sandbox == Sandbox(targets=("db.example:5432", "[::1]:80", "10.0.0.1:1"))
    assert made(sandbox="strict", net=("none",)).sandbox == Sandbox()
    assert made().sandbox is None and made(sandbox="strict").sandbox == Sandbox()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"sandbox": "strict", "read": ("nowhere",)},
            "--read nowhere: there is no such file or folder; to have the code make it, give --write /",
        ),
        ({"sandbox": "strict", "write": ("/",)}, "--write /: that is everything"),
        ({"read": ("/usr",)}, "--read is for --sandbox strict"),
        ({"net": ("none",)}, "--net is for --sandbox strict"),
        ({"sandbox_level": "ns"}, "--sandbox-level is for --sandbox strict"),
        *(
            ({"sandbox": "strict", "net": words}, f"--net {text}")
            for words, text in (
                (("all", "db:1"), "all contradicts --net db:1"),
                (("none", "all"), "none contradicts --net all"),
                (("db",), "wants none, all or HOST:PORT, not 'db': it has no port"),
                (("db:0",), "wants none, all or HOST:PORT, not 'db:0': a port is a number from 1"),
                (("db:http",), "wants none, all or HOST:PORT, not 'db:http': a port is"),
                (("::1:80",), "wants none, all or HOST:PORT, not '::1:80': write an IPv6 address in"),
                (("0.0.0.0:80",), "wants none, all or HOST:PORT, not '0.0.0.0:80': nobody listens"),
                (("1.2.3:80",), "wants none, all or HOST:PORT, not '1.2.3:80': '1.2.3' is neither"),
                (("a b:80",), "wants none, all or HOST:PORT, not 'a b:80': 'a b' is neither"),
                (tuple(f"a:{port}" for port in range(1, 202)), "201 times: 200 targets are possible"),
            )
        ),
        ({"sandbox": "strict", "in_process": True}, "--in-process runs the code in this process"),
        ({"sandbox": "strict", "metrics_dir": "m", "input": ("1",)}, "--sandbox strict keeps metrics"),
    ],
)
def test_what_a_sandbox_cannot_be_is_reported(values: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=f"^{text}"):
        made(**values)


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        (None, {}, DEFAULT_URL + QUERY),
        ("ws://host:1", {}, "ws://host:1" + QUERY),
        ("ws://host:1", {"WORKER_SOCKET_PORT": "9"}, "ws://host:1" + QUERY),
        (None, {"WORKER_SOCKET_PORT": "9"}, "ws://127.0.0.1:9" + QUERY),
        (None, {"WORKER_SOCKET_HOST": "h"}, "ws://h:3000" + QUERY),
        (None, {"WORKER_SOCKET_PROTOCOL": "wss", "WORKER_SOCKET_HOST": "h"}, "wss://h:3000" + QUERY),
        (None, {"WORKER_SOCKET_PORT": ""}, DEFAULT_URL + QUERY),
        ("wss://h/debug/alg", {}, "wss://h/debug/alg" + QUERY),
        ("ws://h?a=b", {}, "ws://h?a=b&storage=v1&encoding=json"),
        ("ws://h?encoding=bson", {}, "ws://h?encoding=bson&storage=v1"),
        ("ws://[::1]:3000", {}, "ws://[::1]:3000" + QUERY),
        ("ws://u:p@h", {}, "ws://u:p@h" + QUERY),
    ],
)
def test_the_workers_url(url: str | None, environ: dict[str, str], expected: str) -> None:
    assert worker_url(url, environ, "json") == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "ws://localhost:3000/socket.io/?EIO=3&transport=websocket&storage=v1&encoding=json"),
        ("http://h:1", "ws://h:1/socket.io/?EIO=3&transport=websocket&storage=v1&encoding=json"),
        ("https://h/", "wss://h/socket.io/?EIO=3&transport=websocket&storage=v1&encoding=json"),
        (
            "ws://h/at/socket.io/?EIO=3&a=b",
            "ws://h/at/socket.io/?EIO=3&a=b&transport=websocket&storage=v1&encoding=json",
        ),
    ],
)
def test_the_url_of_a_worker_with_socketio(url: str | None, expected: str) -> None:
    assert worker_url(url, {}, "json", socketio=True) == expected
    for name in ("socketio", "socket"):
        serving = made(url=url, transport=name, encoding="bson", input=None).serving
        assert (serving.url, serving.transport, serving.encoding) == (expected, "socketio", "socket.io")
    assert made(transport="socketio", storage="v3").serving.encoding == "json"
    assert made(transport="socketio", encoding="bson", input=("1",)).serving.encoding == "bson"


@pytest.mark.parametrize(
    "url", ["http://host", "host:3000", "ws://", "ws://h:0", "ws://h:99999", "ws://h:x", "ws:///x"]
)
def test_a_url_of_another_kind_is_reported(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        worker_url(url, {}, "json")
    assert url in str(caught.value) and "\n" not in str(caught.value)


def test_each_option_is_declared_once_and_shown_in_the_help() -> None:
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(set(flags)) == len(flags)
    variables = [variable for option in OPTIONS for variable in option.env]
    assert len(set(variables)) == len(variables)
    for option in OPTIONS:
        assert option.help.rstrip("]").rstrip(".") and option.kind in (
            "text",
            "many",
            "seconds",
            "flag",
            "choice",
        )


def test_code_of_a_user_without_a_home_is_not_taken_for_that_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose uid has no entry in /etc/passwd."""
    monkeypatch.chdir(tmp_path)
    where = Location(str(tmp_path), "code", "start", "")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    with pytest.raises(SettingsError, match="all of which it could then read"):
        check_sandbox(made(sandbox="strict"), where, is_program=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    check_sandbox(made(sandbox="strict"), where, is_program=False)
