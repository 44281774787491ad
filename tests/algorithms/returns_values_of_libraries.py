"""Returns what its input names: values of libraries, or of classes that look like a library's."""

import datetime
import io
import types


def stand_in(module, name, **members):
    return type(name, (), {"__module__": module, **members})()


class Columns(list):
    is_unique = True


class Rows(list):
    nlevels, name, dtype = 1, None, types.SimpleNamespace(kind="i")
    is_unique, is_monotonic_increasing, hasnans = True, True, False


def frame():
    return stand_in(
        "pandas",
        "DataFrame",
        columns=Columns("ab"),
        index=Rows([0, 1]),
        reset_index=None,
        to_dict=lambda self, how: [{"a": 1, "b": NA}],
    )


def array():
    import numpy

    return numpy.array(["2024-01-01T00:00:00.000000001", "NaT"], "M8[ns]")


def model():
    import attrs

    return attrs.make_class("Model", ["x", "y"])(1, {"at": datetime.date(2024, 2, 29)})


def pydantic():
    return stand_in("alg", "Model", __pydantic_validator__=0, model_dump=lambda self: {"a": [NA]})


def model_of_sklearn():
    members = dict.fromkeys(("fit", "predict", "get_params"), lambda self: None)
    fitted = stand_in("sklearn.svm", "SVC", **members)
    fitted.C = 1.0
    return fitted


NA = stand_in("pandas", "NAType")
VALUES = {
    "frame": lambda: {"a": [0, 0, 0, frame()]},
    "frame as its message says": lambda: {"a": [0, 0, 0, frame().to_dict("records")]},
    "buffer": lambda: io.BytesIO(b"x"),
    "model": model_of_sklearn,
    "namespace": lambda: [types.SimpleNamespace(a=1)],
    "not available": lambda: [1, NA],
    "array": array,
    "attrs": model,
    "pydantic": pydantic,
}


def start(args):
    return VALUES[args["input"][0]]()
