"""What the parent and the child both know of the code API."""

from __future__ import annotations

from hkrunner.sandbox.child import api_answers
from hkrunner.sandbox.shared.code_api import ANSWERS


def test_the_child_handles_what_the_parent_passes_on_and_nothing_else() -> None:
    assert api_answers.HANDLED == ANSWERS
