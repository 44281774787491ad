"""Names and values that are odd on their way into an image or a cluster: one sentence, or what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hkrunner.runner.cluster.algorithm_payload import algorithm_payload
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.image.containerfile import ImagePlan, containerfile
from hkrunner.runner.image.context import entry_in_image
from hkrunner.sandbox.shared.entry import Location
from support.programs import run_hkrunner

MAIN = "def start(args):\n    return 1\n"


def test_an_entry_of_any_name_is_the_same_in_the_image() -> None:
    """Within quotes an engine replaces variables, and does not know JSON's escapes."""
    plan = ImagePlan("a", "python:3.12", "1", "w.whl", 'größe $HOME \\ "x".py')
    line = next(one for one in containerfile(plan).splitlines() if "ALGORITHM_ENTRY_POINT" in one)
    assert line.endswith('ALGORITHM_ENTRY_POINT="größe \\$HOME \\\\ \\"x\\".py"')
    with pytest.raises(SettingsError, match="cannot be the entry of an image"):
        entry_in_image(Location(folder="/a", module="b", file="/a/b\nRUN x.py", function="start"))


def test_an_image_is_planned_beside_links_that_lead_nowhere_and_of_the_entrys_folder(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "in ner ä"
    inner.mkdir(parents=True)
    (inner / "größe.py").write_text(MAIN)
    (inner / "Dockerfile").write_text("FROM scratch\n")
    (inner / "dangling").symlink_to("nowhere")
    (tmp_path / "outer" / "secret.txt").touch()
    base = ("--base", "python:3.12-slim")
    ended = run_hkrunner("image", "in ner ä/größe.py", "--dry-run", "--json", *base, cwd=tmp_path / "outer")
    assert ended.status == 0, ended
    facts = json.loads(ended.stdout)
    assert (facts["files"], facts["entry"]) == (3, "größe.py")
    refused = run_hkrunner("image", "größe.py", "--dry-run", "--base", "python\nRUN evil", cwd=inner)
    assert refused.status == 2 and "--base wants the name of an image" in refused.stderr


def test_a_value_that_json_does_not_have_is_null_and_a_lone_surrogate_is_printed(tmp_path: Path) -> None:
    fields = {"labels": {"a": float("nan"), "b": [float("inf"), 1.5]}, "cpu": 1}
    sent = algorithm_payload("abc", fields, entry=None, image=None, user="ada")
    assert sent["labels"] == {"a": None, "b": [None, 1.5]} and sent["cpu"] == 1
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "algorithm.yml").write_text(
        'name: abc\nlabels: {B: "\\ud800"}\ncode: {path: ./, entryPoint: main.py}\n'
    )
    ended = run_hkrunner("apply", "--dry-run", cwd=tmp_path)
    assert ended.status == 0, ended
    assert json.loads(ended.stdout)["labels"] == {"B": "\ud800"}
