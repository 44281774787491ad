"""What inputs look like in names, and the names by which a board tells tasks apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hkrunner.boards.runs.run_names import NamedTask, RunNames, marked
from hkrunner.boards.runs.task_values import Scalar, flatten_input, numbers, read_input, read_result, shown
from hypothesis import given
from hypothesis import strategies as st

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


def json_of(most: int) -> st.SearchStrategy[object]:
    """JSON with so many scalars at most, or a little more."""
    return st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(), inner, max_size=6),
        max_leaves=most,
    )


def names_of(*inputs: object, ids: list[str] | None = None, nodes: list[str] | None = None) -> list[str]:
    """The names of tasks t1, t2, … that are known at once."""
    tasks = [
        NamedTask(
            ids[number] if ids else f"t{number + 1}",
            nodes[number] if nodes else "train",
            flatten_input(one),
        )
        for number, one in enumerate(inputs)
    ]
    names = RunNames()
    names.learn(tasks)
    return [names.name(task) for task in tasks]


@pytest.mark.parametrize(
    ("value", "flat"),
    [
        ([{"lr": 0.02, "model": {"name": "mlp"}}], {"lr": 0.02, "model.name": "mlp"}),
        ([0.02], {"input": 0.02}),
        ([], {"len(input)": 0}),
        (["a.csv", {"lr": 2}], {"[0]": "a.csv", "[1].lr": 2}),
        ([{"layers": [64, 32], "on": True}], {"layers[0]": 64, "layers[1]": 32, "on": True}),
        ([{"data": list(range(1000))}], {"len(data)": 1000}),
        ([list(range(9))], {"len(input)": 9}),
        ([{"a.b": 1, "a": {"b": 2}}], {"a.b": 1, "a.b'": 2}),
        ([{"none": None}], {"none": "null"}),
        ([{"text": "x" * 200}], {"text": "x" * 49 + "…" + "x" * 50}),
        ([{"\ud800": "\udfff"}], {"\ufffd": "\ufffd"}),
        ([{"k" * 200: 1, "m" + "k" * 199: 2}], {"…" + "k" * 99: 1, "…" + "k" * 99 + "'": 2}),
    ],
)
def test_an_input_is_flattened_to_scalars_by_their_place(value: object, flat: dict[str, Scalar]) -> None:
    assert flatten_input(value) == flat


@given(json_of(100))
def test_every_input_gives_few_short_scalars(value: object) -> None:
    flat = flatten_input([value])
    assert len(flat) <= 64
    assert all(len(text) <= 100 for text in flat.values() if isinstance(text, str))


def test_names_have_the_inputs_that_differ() -> None:
    inputs = [{"lr": 0.02, "seed": 1, "on": True}, {"lr": 0.2, "seed": 1, "on": False}]
    assert names_of([inputs[0]], [inputs[1]]) == ["t1 lr=0.02 on=true", "t2 lr=0.2 on=false"]


def test_an_input_that_one_task_lacks_differs() -> None:
    assert names_of([{"lr": 1, "decay": 0.5}], [{"lr": 1}]) == ["t1 decay=0.5", "t2"]


def test_a_value_of_another_type_differs() -> None:
    assert names_of([{"n": 1}], [{"n": True}]) == ["t1 n=1", "t2 n=true"]


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ([0.1, 0.1000000001, 0.2], ["0.1", "0.1000000001", "0.2"]),
        (
            ["/data/images/train/a.png", "/data/images/train/b.png"],
            ["…ges\u2215train\u2215a.png", "…ges\u2215train\u2215b.png"],
        ),
        ([1_000_000_000_000_000_001, 1_000_000_000_000_000_002], ["…000000000000001", "…000000000000002"]),
        (["x" * 200 + "a", "x" * 200 + "b"], ["…" + "x" * 14 + "a", "…" + "x" * 14 + "b"]),
        ([0.1 + 0.2, 0.4], ["0.3", "0.4"]),
    ],
)
def test_values_that_would_be_shown_alike_are_shown_with_what_differs(
    inputs: list[object], named: list[str]
) -> None:
    assert names_of(*([one] for one in inputs)) == [f"t{at + 1} {one}" for at, one in enumerate(named)]


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ([[64, 64], [128, 64], [64]], ["l=[64,64]", "l=[128,64]", "l=[64]"]),
        ([[0, 1, 2], list(range(100)), []], ["l=[0,1,2]", "len(l)=100", "len(l)=0"]),
        ([[1.25, 2.5, 3.75, 4.5], [1.25]], ["len(l)=4 l[1]=2.5 l[2]=3.75 l[3]=4.5", "l=[1.25]"]),
        ([[1, 2], [1, 3]], ["l[1]=2", "l[1]=3"]),
        ([[[1, 2], [3]], [[4]]], ["len(l)=2 l[0][0]=1 l[0][1]=2", "len(l)=1 l[0][0]=4"]),
    ],
)
def test_lists_of_different_lengths_are_named_as_a_whole_or_by_their_lengths(
    inputs: list[object], named: list[str]
) -> None:
    names = names_of(*([{"l": one, "same": [7]}] for one in inputs))
    assert names == [f"t{at + 1} {one}" for at, one in enumerate(named)]
    assert names_of([1, 2], [1, 2, 3]) == ["t1 [1,2]", "t2 [1,2,3]"]
    assert names_of([{"a[3]": 1}], [{"a[7]": 1}]) == ["t1 a[3]=1", "t2 a[7]=1"]


def test_a_single_value_needs_no_key_and_a_single_task_shows_its_input() -> None:
    assert names_of([0.02], [0.2]) == ["t1 0.02", "t2 0.2"]
    assert names_of([{"lr": 0.02, "seed": 1}]) == ["t1 lr=0.02 seed=1"]


def test_nodes_are_named_where_a_board_shows_several() -> None:
    assert names_of([1], [1], nodes=["train", "test"]) == ["t1 train", "t2 test"]


def test_a_task_whose_input_is_unknown_makes_no_input_differ_but_its_node() -> None:
    names = RunNames()
    first = NamedTask("t1", "train", {"lr": 1, "seed": 1})
    second = NamedTask("t2", "train", {"lr": 2, "seed": 1})
    unknown = NamedTask("t3", "test", {})
    names.learn([first, second, unknown])
    tasks = (first, second, unknown)
    assert [names.name(task) for task in tasks] == ["t1 train lr=1", "t2 train lr=2", "t3 test"]


def test_a_name_that_was_given_stays_when_further_tasks_differ() -> None:
    names = RunNames()
    first = NamedTask("t1", "train", {"lr": 1, "seed": 1})
    second = NamedTask("t2", "train", {"lr": 2, "seed": 1})
    names.learn([first])
    assert names.name(first) == "t1 lr=1 seed=1"
    names.learn([second])
    assert names.name(second) == "t2 lr=2"


def test_long_ids_keys_and_values_are_cut_and_names_stay_distinct() -> None:
    ids = ["0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-0000-4000-8000-000000000002"]
    assert names_of([1], [1], ids=ids) == ["0a1b2c3d…", "0a1b2c3d… (2)"]
    first, second = names_of([{"optimizer.schedule.warmup": 1, "path": "/data/a/b/c/d/e/f/g/h"}], [{}])
    assert (first, second) == ("t1 …schedule.warmup=1", "t2 len(input)=0")
    (name,) = names_of([{"path": "/data/a/b/c/d/e/f/g/h"}])
    assert name == "t1 path=/data/a/b/c/d/e…".replace("/", "\u2215")


@given(st.lists(json_of(20), min_size=1, max_size=5))
def test_every_input_gives_distinct_names_that_are_one_part_of_a_path(values: list[object]) -> None:
    names = names_of(*([value] for value in values))
    assert len(set(names)) == len(values)
    for name in names:
        assert "/" not in name and name.isprintable() and len(name) <= 44
        assert len(marked(name, "failed").encode()) < 255


def test_no_name_looks_like_that_of_a_task_with_another_outcome() -> None:
    names = names_of(["✘"], ["■"], [1], ids=["t1", "t2", "t3 ✘"])
    assert names == ["t1 ✘ (2)", "t2 ■ (2)", "t3 ✘ 1"]
    assert names_of([{}], ids=["t3 ✘"]) == ["t3 ✘ len(input)=0"]


def test_a_value_colors_no_terminal_and_stays_on_its_line() -> None:
    assert shown("\x1b[31mred\n\u202eline", limit=40) == "\ufffd[31mred \ufffdline"


def test_only_numbers_that_a_float_can_be_are_numbers() -> None:
    values: dict[str, Scalar] = {"a": 10**400, "b": -(10**400), "c": True, "d": 2, "e": -0.0, "f": "x"}
    assert numbers(values) == {"c": 1.0, "d": 2.0, "e": 0.0}


@pytest.mark.parametrize(
    ("status", "name"),
    [("active", "t1"), ("succeed", "t1"), ("failed", "t1 ✘"), ("lost", "t1 ✘"), ("stopped", "t1 ■")],
)
def test_only_a_task_that_did_not_end_well_is_marked(status: str, name: str) -> None:
    assert marked("t1", status) == name


def test_a_record_without_input_has_none_and_a_large_one_its_size(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert read_input(folder, {}) is None and read_result(folder) == {}
    assert read_input(folder, {"notKept": {"input": 5_000_000}}) == {"bytes(input)": 5_000_000}
    (tmp_path / "input.json").write_text(json.dumps(["x" * (2 << 20)]))
    assert read_input(folder, {}) == {"bytes": (2 << 20) + 4}
    (tmp_path / "output.json").write_text('{"loss": 0.5}')
    assert read_result(folder) == {"loss": 0.5}
    (tmp_path / "output.json").write_text(f'{{"loss": 0.5, "n": 1{"0" * 5000}}}')
    assert read_result(folder) == {"loss": 0.5, "n": "1" + "0" * 48 + "…" + "0" * 50}
    (tmp_path / "output.json").write_text("[" * 100_000)
    assert read_result(folder) == {}
    (tmp_path / "output.json").write_text("{")
    assert read_result(folder) == {}
