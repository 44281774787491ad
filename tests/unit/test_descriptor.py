"""algorithm.yml: what is read of it, what is wrong with it and on which line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.settings.descriptor import read
from hkrunner.runner.settings.descriptor_schema import Descriptor
from hkrunner.runner.settings.descriptor_search import find
from hypothesis import given
from hypothesis import strategies as st

HKUBECTL = """\
# as hkubectl reads it
name: my-alg
env: python
resources:
  cpu: 0.5
  gpu: 1
  mem: 512Mi
code:
  path: ./code
  entryPoint: src/main.py
algorithmEnv:
  MODEL: small
minHotWorkers: 2
somethingNew: {kept: [1, 2]}
"""
FLAT = {"name": "my-alg", "env": "python", "cpu": 0.5, "gpu": 1, "mem": "512Mi", "entryPoint": "src/main.py"}
MIB = 2**20


def yaml(folder: Path, text: str, name: str = "algorithm.yml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def described(folder: Path, text: str, name: str = "algorithm.yml") -> Descriptor:
    return read(str(yaml(folder, text, name)))


def wrong(folder: Path, text: str, name: str = "algorithm.yml") -> str:
    """The sentence that this file is refused with."""
    with pytest.raises(SettingsError) as caught:
        described(folder, text, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- both forms, both languages


def test_hkubectls_form_is_read_as_hkubectl_does(tmp_path: Path) -> None:
    found = described(tmp_path, HKUBECTL)
    assert (found.name, found.cpu, found.mem, found.gpus) == ("my-alg", "0.5", "512Mi", 1)
    assert (found.entry, found.code_path) == ("src/main.py", str(tmp_path / "code"))
    assert found.variables == {"MODEL": "small"}
    assert found.fields["minHotWorkers"] == 2 and found.fields["somethingNew"] == {"kept": [1, 2]}
    assert "resources" not in found.fields and "code" not in found.fields
    assert found.at("/resources/mem") == "algorithm.yml:7"


@pytest.mark.parametrize("name", ["algorithm.yml", "algorithm.json"])
def test_the_flat_form_of_the_api_is_read_too(tmp_path: Path, name: str) -> None:
    found = described(tmp_path, json.dumps(FLAT), name)
    assert (found.name, found.cpu, found.mem, found.gpus) == ("my-alg", "0.5", "512Mi", 1)
    assert (found.entry, found.code_path, found.notes) == ("src/main.py", None, ())


def test_a_top_level_entry_point_next_to_code_is_ignored_with_a_message(tmp_path: Path) -> None:
    found = described(tmp_path, "name: my-alg\nentryPoint: a.py\ncode: {path: .}\n")
    assert found.entry is None
    assert found.notes == (
        "algorithm.yml:2: a top-level entryPoint is left out, as hkubectl leaves it out; write it below"
        " code:",
    )


def test_resources_override_the_same_keys_at_the_top(tmp_path: Path) -> None:
    found = described(tmp_path, "name: my-alg\ncpu: 1\nmem: 1Gi\nresources: {cpu: 2}\n")
    assert (found.cpu, found.mem) == ("2", "1Gi")


@pytest.mark.parametrize("path", ["sub/x.tar.gz", "./sub/../sub/x.tar.gz"])
def test_a_relative_path_is_relative_to_the_file(tmp_path: Path, path: str) -> None:
    found = described(tmp_path, f"code: {{path: {path}}}")
    assert found.code_path == str(tmp_path / "sub" / "x.tar.gz")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert described(tmp_path, "code: {path: ~/x}").code_path == str(tmp_path / "home" / "x")


def test_null_and_empty_values_count_as_absent(tmp_path: Path) -> None:
    found = described(tmp_path, "name: null\nmem:\nresources:\ncode: ~\nalgorithmEnv: {A: null, B: ''}\n")
    assert (found.name, found.mem, found.cpu, found.gpus, found.entry) == (None, None, None, 0, None)
    assert found.variables == {"B": ""}


def test_anchors_and_merges_are_followed(tmp_path: Path) -> None:
    text = "x: &x {cpu: 2, mem: 1Gi}\nresources: {<<: *x, mem: 2Gi}\nname: my-alg\n"
    found = described(tmp_path, text)
    assert (found.cpu, found.mem) == ("2", "2Gi")


def test_yaml_is_read_as_javascript_reads_it(tmp_path: Path) -> None:
    variables = "A: yes\n  B: on\n  C: 010\n  D: 12:30\n  E: 2020-01-01\n  F: 0x10\n  G: 1e3\n  H: 'true'"
    found = described(tmp_path, f"algorithmEnv:\n  {variables}\n  I: 0o10\n  1: one\n  true: t\n")
    assert found.variables == {
        **{"A": "yes", "B": "on", "C": "10", "D": "12:30", "E": "2020-01-01", "F": "16", "G": "1000"},
        **{"H": "true", "I": "8", "1": "one", "true": "t"},
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((True, "true"), (False, "false"), (1, "1"), (-7, "-7"), (1.0, "1"), (0.5, "0.5"), (0.1, "0.1")),
        *((1e20, "100000000000000000000"), (1e21, "1e+21"), (1e-7, "1e-7"), (0.00001, "0.00001")),
        *((1.5e-6, "0.0000015"), (1.25e-10, "1.25e-10"), (-2.5e-5, "-0.000025"), (1e300, "1e+300")),
        *((9007199254740993, "9007199254740992"), ("x", "x"), ("", "")),
        *((10**400, "Infinity"), (-(10**400), "-Infinity")),
    ],
)
def test_a_variable_is_the_text_that_javascript_makes_of_its_value(
    tmp_path: Path, value: Any, text: str
) -> None:
    found = described(tmp_path, json.dumps({"algorithmEnv": {"A": value}}), "algorithm.json")
    assert found.variables == {"A": text}


def test_what_only_the_cluster_knows_is_left_out(tmp_path: Path) -> None:
    refs = {
        name: {name: {"name": "a", "key": "b"}} for name in ("fieldRef", "configMapKeyRef", "secretKeyRef")
    }
    found = described(tmp_path, json.dumps({"algorithmEnv": {**refs, "A": 1}}, indent=1), "algorithm.json")
    assert found.variables == {"A": "1"} and set(found.references) == set(refs)


# ---- what is wrong


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mem: 512", "memory unit must be one of Ki,M,Mi,Gi,m,K,G,T,Ti (did you mean 512Mi?); got 512 (mem)"),
        (
            "mem: 512MB",
            'MB is not a valid unit [Ki,M,Mi,Gi,m,K,G,T,Ti] (did you mean 512Mi?); got "512MB" (mem)',
        ),
        ("mem: -1Mi", 'value must be >= 0; got "-1Mi" (mem)'),
        ("mem: 1Mi", 'memory must be at least 4 Mi; got "1Mi" (mem)'),
        (
            "resources: {mem: abc}",
            "abc is not a valid unit [Ki,M,Mi,Gi,m,K,G,T,Ti] (write it like 512Mi);"
            ' got "abc" (resources.mem)',
        ),
        ("mem: [1]", "data.mem should be string; got [1] (mem)"),
        (
            "reservedMemory: 5X",
            'X is not a valid unit [Ki,M,Mi,Gi,m,K,G,T,Ti] (write it like 512Mi); got "5X" (reservedMemory)',
        ),
        ("cpu: 500m", 'data.cpu should be number; got "500m" (cpu)'),
        ("cpu: true", "data.cpu should be number; got true (cpu)"),
        ("cpu: .inf", "data.cpu should be number; got Infinity (cpu)"),
        ("cpu: -1", "data.cpu should be >= 0 (cpu)"),
        ("resources: {gpu: many}", 'data.gpu should be number; got "many" (resources.gpu)'),
        (
            "name: My_Alg",
            "algorithm name must contain only lower-case alphanumeric, dash or dot; got 'My_Alg' (name)",
        ),
        ("name: a", "dash or dot; got 'a' (at least two characters) (name)"),
        (f"name: {'a' * 33}", "data.name should NOT be longer than 32 characters; got 33 (name)"),
        ("name: ''", "data.name should NOT be shorter than 1 characters (name)"),
        ("env: ruby", "equal to one of the allowed values (nodejs,python,java); got ruby (env)"),
        (
            "kind: other",
            "data.kind should be equal to one of the allowed values (batch,stream); got other (kind)",
        ),
        ("resources: 5", "data.resources should be object (resources)"),
        ("code: main.py", "data.code should be object (code)"),
        ("code: {path: 5}", "code.path should be string; got 5 (code.path)"),
        ("code: {entryPoint: [a]}", 'data.entryPoint should be string; got ["a"] (code.entryPoint)'),
        ("algorithmEnv: [A]", 'data.algorithmEnv should be object; got ["A"] (algorithmEnv)'),
        ("algorithmEnv: {A: {b: c}}", "data.algorithmEnv.A should be a value or one of fieldRef,"),
        ("algorithmEnv: {A: [1]}", "data.algorithmEnv.A should be a value; got [1] (algorithmEnv.A)"),
        ("algorithmEnv: {'A=B': 1}", "'A=B' is no name of a variable (algorithmEnv.A=B)"),
        ("minHotWorkers: 1.5", "data.minHotWorkers should be integer; got 1.5 (minHotWorkers)"),
        ("options: yes", 'data.options should be object; got "yes" (options)'),
        (
            "workerCustomResources: {requests: {cpu: 1, memory: 1}}",
            "algorithm has invalid workerCustomResources: limits.cpu must be defined (workerCustomResources)",
        ),
    ],
)
@pytest.mark.parametrize("name", ["algorithm.yml", "algorithm.json"])
def test_what_the_server_refuses_is_reported_with_its_text_and_the_line(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    import yaml as library

    if name.endswith(".json"):
        lines = json.dumps(library.safe_load(text.replace("yes", "'yes'"))).replace("\n", " ")
        text = "{\n\n" + lines[1:]
    else:
        text = "\n# a comment\n" + text
    told = wrong(tmp_path, text, name)
    assert told.startswith(f"{name}:3: ") and sentence in told, told


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: b: c\n", "algorithm.yml:1: not YAML: mapping values are not allowed here"),
        (
            "name: my-alg\n\tcpu: 1\n",
            "algorithm.yml:2: not YAML: found character '\\t' that cannot start any token; indent",
        ),
        ("name: my-alg\ncpu: [1\n", "algorithm.yml:3: not YAML: expected ',' or ']'"),
        ("name: a1\nname: b1\n", "algorithm.yml:2: not YAML: duplicated mapping key (name)"),
        ("name: a1\n---\nname: b1\n", "algorithm.yml:2: not YAML: two documents in one file"),
        ("a: *b\n", "algorithm.yml:1: not YAML: found undefined alias"),
        ("a: &a [*a]\n", "algorithm.yml:1: not YAML: nested too deeply, or it contains itself"),
        ("- a\n", "algorithm.yml:1: a descriptor is an object with a name, not a list"),
        ("", "algorithm.yml:1: a descriptor is an object with a name, not nothing"),
        ("just text", "algorithm.yml:1: a descriptor is an object with a name, not text"),
        ("name: \x01\n", "algorithm.yml:1: not YAML: special characters are not allowed"),
        ("[" * 5000, "algorithm.yml"),
        ("a: !!int x\n", 'algorithm.yml:1: not YAML: "x" is no int'),
        ("? [a]\n: b\n", "algorithm.yml:1: not YAML: a key must be text"),
        (f"cpu: {'9' * 5000}\n", "algorithm.yml:1: "),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    assert wrong(tmp_path, text).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"name": "my-alg",\n "cpu": 1\n "mem": 2}', "algorithm.json:3: not JSON: "),
        ("", "algorithm.json:1: not JSON: "),
        ("[1]", "algorithm.json:1: a descriptor is an object with a name, not a list"),
        ("5", "algorithm.json:1: a descriptor is an object with a name, not a number"),
        ("[" * 100_000, "algorithm.json: nested too deeply"),
        ('{"cpu": ' + "9" * 5000 + "}", "algorithm.json"),
        (
            '{"a": [1, {"b": {}}, []],\n"x/y~z": {"k": "\\u007d"},\n"resources": {"mem": 1}}',
            "algorithm.json:3: ",
        ),
    ],
)
def test_invalid_json_is_reported_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    assert wrong(tmp_path, text, "algorithm.json").startswith(sentence)


def test_a_file_that_cannot_be_a_descriptor_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "algorithm.yml").write_bytes(b"name: ok\nx: \xff\n")
    with pytest.raises(SettingsError, match=r"^algorithm.yml:2: not UTF-8 text$"):
        read(str(tmp_path / "algorithm.yml"))
    (tmp_path / "algorithm.yml").write_bytes(b"#" * 2 * MIB)
    with pytest.raises(SettingsError, match=r"it is no descriptor$"):
        read(str(tmp_path / "algorithm.yml"))
    with pytest.raises(SettingsError, match=r"cannot read .*missing.yml: No such file"):
        read(str(tmp_path / "missing.yml"))
    with pytest.raises(SettingsError, match=r"Is a directory$"):
        read(str(tmp_path))


def test_a_small_file_that_unfolds_without_end_is_read_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert described(tmp_path, "\n".join([*lines, "name: my-alg"])).name == "my-alg"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    [*FLAT, "resources", "code", "algorithmEnv", "workerCustomResources", "reservedMemory"]
)


@given(st.dictionaries(keys | st.text(max_size=4), values, max_size=6))
def test_any_content_is_read_or_reported_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    file = tmp_path_factory.getbasetemp() / "algorithm.json"
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")
    try:
        found = read(str(file))
    except SettingsError as error:
        assert str(error).startswith("algorithm.json:"), error
    else:
        assert all(isinstance(one, str) for one in found.variables.values())
        assert found.gpus >= 0 and (found.cpu is None or float(found.cpu) > 0)


# ---- which file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("work/main.py", "work/alg.py", "work/sub/alg.py", "elsewhere/alg.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "work"


@pytest.mark.parametrize(
    ("files", "entry", "path", "expected"),
    [
        ([], None, None, None),
        (["algorithm.yml"], None, None, "algorithm.yml"),
        (["algorithm.json", "algorithm.yaml"], None, None, "algorithm.yaml"),
        (["algorithm.yml"], "alg.py", None, "algorithm.yml"),
        (["algorithm.yml"], "alg.py:train", None, "algorithm.yml"),
        (["algorithm.yml"], "alg", None, "algorithm.yml"),
        (["algorithm.yml"], "sub/alg.py", None, "algorithm.yml"),
        (["algorithm.yml", "sub/algorithm.json"], "sub/alg.py", None, "sub/algorithm.json"),
        (["algorithm.yml", "sub/algorithm.json"], "sub", None, "sub/algorithm.json"),
        (["algorithm.yml", "alg.yaml"], "alg.py", None, "alg.yaml"),
        (["algorithm.yml", "alg.yml"], "alg.py", None, "alg.yml"),
        (["algorithm.yml", "alg.yaml"], "main.py", None, "algorithm.yml"),
        (["algorithm.yml"], "../elsewhere/alg.py", None, None),
        (["../elsewhere/algorithm.yml"], "../elsewhere/alg.py", None, "../elsewhere/algorithm.yml"),
        (["algorithm.yml", "sub/algorithm.yml"], None, "sub", "sub/algorithm.yml"),
        (["algorithm.yml", "sub/algorithm.yml"], "alg.py", "sub", "sub/algorithm.yml"),
        (["algorithm.yml"], "pack.module", None, "algorithm.yml"),
    ],
)
def test_the_descriptor_beside_the_code_is_found(
    place: Path, files: list[str], entry: str | None, path: str | None, expected: str | None
) -> None:
    for name in files:
        yaml(place, "name: my-alg\nenv: python\n", name)
    found = find(entry, path, str(place))
    assert (found and os.path.realpath(found)) == (expected and os.path.realpath(place / expected))


@pytest.mark.parametrize(
    "text", ["lr: 0.1\n", "name: run\nenv: CartPole\n", "- a", "a: b: c", "", "name: 5\nmem: 1"]
)
def test_a_yaml_file_of_the_same_name_is_no_descriptor_unless_it_looks_like_one(
    place: Path, text: str
) -> None:
    yaml(place, text, "alg.yaml")
    assert find("alg.py", None, str(place)) is None


@pytest.mark.parametrize("env", ["java", "jvm"])
def test_both_names_of_the_jvm_are_read_and_the_one_of_the_server_is_named(tmp_path: Path, env: str) -> None:
    found = described(tmp_path, f"name: my-alg\nenv: {env}\n")
    assert found.env == "java"
    assert found.notes == (
        () if env == "java" else ("algorithm.yml:2: env: HKube's server takes java, not jvm",)
    )


def test_a_key_that_resembles_one_of_a_run_is_reported_and_any_other_is_not(tmp_path: Path) -> None:
    text = "name: my-alg\nresources:\n  memory: 1Gi\n  disk: 5\ncode:\n  entrypoint: a.py\nauthor: me\n"
    (tmp_path / "algorithm.yml").write_text(text)
    assert read(str(tmp_path / "algorithm.yml")).notes == (
        "algorithm.yml:3: resources.memory is ignored; did you mean mem?",
        "algorithm.yml:6: code.entrypoint is ignored; did you mean entryPoint?",
    )
