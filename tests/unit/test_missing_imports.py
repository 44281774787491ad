"""Which modules code imports is found without running it."""

from __future__ import annotations

import ast

from hkrunner.runner.prepare.missing_imports import _imports


def test_imports_are_found_in_generated_code_that_is_nested_deeper_than_pythons_stack() -> None:
    """As in a long row of `elif`, of which each is in the one before."""
    node: ast.stmt = ast.Import([ast.alias("last")], lineno=1)
    for number in reversed(range(5000)):
        inside = ast.Import([ast.alias(f"m{number}")], lineno=1)
        node = ast.If(ast.Constant(True), [inside], [node])
    tree = ast.Module([ast.Import([ast.alias("first")], lineno=1), node], [])
    found = [(one.module, one.optional) for one, _ in _imports(tree, "alg.py", optional=False)]
    assert found == [("first", False), *((f"m{number}", True) for number in range(5000)), ("last", True)]
