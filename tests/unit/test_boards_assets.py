"""TensorBoard's files reach the browser as they lie in its zip."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hkrunner.boards.tensorboard.assets import Assets
from hkrunner.boards.tensorboard.live_page import live_page

PREFIX = "/hkube/board/abc"
FILES = {
    "index.html": b"<page>",
    "index.js": b"let a = 1;" * 1000,
    "fonts/a.woff2": b"wOF2",
    "empty.css": b"",
}


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    path = tmp_path / "web.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            kind = zipfile.ZIP_STORED if name.endswith(".woff2") else zipfile.ZIP_DEFLATED
            archive.writestr(name, content, compress_type=kind)
        archive.mkdir("folder") if hasattr(archive, "mkdir") else archive.writestr("folder/", b"")
    return Assets(lambda: path.open("rb"))


def other(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("404 other", [])
    return [b"other"]


def ask(assets: Assets, path: str, **more: str) -> tuple[str, dict[str, str], bytes]:
    return ask_of(assets.before(other, PREFIX), path, **more)


def ask_of(application: Any, path: str, **more: str) -> tuple[str, dict[str, str], bytes]:
    answers: list[tuple[str, dict[str, str]]] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        answers.append((status, dict(headers)))

    environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET", **more}
    body = b"".join(application(environ, start_response))
    return (*answers[0], body)


def test_a_page_runs_our_script_before_its_own(assets: Assets, tmp_path: Path) -> None:
    path = tmp_path / "page.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("index.html", '<body><script src="index.js?_file_hash=1"></script></body>')
    with zipfile.ZipFile(Assets(lambda: path.open("rb")).pages()) as pages:
        page = pages.read("index.html").decode()
    ours, own = page.index('<script src="hkrunner-live.js">'), page.index('<script src="index.js?')
    assert ours < own


def test_the_script_and_the_state_it_asks_for_are_served_below_the_prefix_only() -> None:
    page = live_page(other, PREFIX, lambda: {"changes": 3, "running": 1})
    status, headers, body = ask_of(page, f"{PREFIX}/hkrunner-live.js")
    assert (status, headers["Content-Length"]) == ("200 OK", str(len(body))) and b"autoReload" in body
    assert headers["Content-Type"].endswith("javascript") and b'fetch("hkrunner-state.json"' in body
    assert ask_of(page, f"{PREFIX}/hkrunner-state.json")[2] == b'{"changes": 3, "running": 1}'
    for path in ("/hkrunner-live.js", "/hkrunner-state.json", f"{PREFIX}/data/runs"):
        assert ask_of(page, path)[2] == b"other"


@pytest.mark.parametrize("name", ["index.js", "fonts/a.woff2", "empty.css"])
@pytest.mark.parametrize("accepts", ["gzip, deflate, br", ""])
def test_a_file_arrives_whole_in_either_encoding(assets: Assets, name: str, accepts: str) -> None:
    status, headers, body = ask(assets, f"{PREFIX}/{name}", HTTP_ACCEPT_ENCODING=accepts)
    assert status == "200 OK" and headers["Content-Length"] == str(len(body))
    is_packed = headers.get("Content-Encoding") == "gzip"
    assert is_packed == (accepts != "" and not name.endswith(".woff2"))
    assert (gzip.decompress(body) if is_packed else body) == FILES[name]


def test_a_script_named_by_its_hash_may_be_kept_and_others_not(assets: Assets) -> None:
    assert "max-age" in ask(assets, f"{PREFIX}/index.js", QUERY_STRING="_file_hash=ab")[1]["Cache-Control"]
    assert "no-cache" in ask(assets, f"{PREFIX}/index.js")[1]["Cache-Control"]
    assert ask(assets, f"{PREFIX}/index.js", REQUEST_METHOD="HEAD")[2] == b""


@pytest.mark.parametrize(
    "path", ["/index.js", f"{PREFIX}/index.html", f"{PREFIX}/", f"{PREFIX}/folder/", f"{PREFIX}x"]
)
def test_pages_data_and_everything_outside_the_prefix_are_tensorboards(assets: Assets, path: str) -> None:
    assert ask(assets, path)[0] == "404 other"


def test_tensorboard_gets_the_pages_alone(assets: Assets) -> None:
    with zipfile.ZipFile(assets.pages()) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"index.html": b"<page>"}


def test_the_installed_tensorboards_files_are_the_same_either_way() -> None:
    from tensorboard.assets import get_default_assets_zip_provider

    provider = get_default_assets_zip_provider()
    installed = Assets(provider)
    with provider() as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir() and not info.filename.endswith(".html"):
                _, headers, body = ask(installed, f"{PREFIX}/{info.filename}", HTTP_ACCEPT_ENCODING="gzip")
                if headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert body == archive.read(info), info.filename
