"""What is wrong with a text that is no YAML, and where."""

from __future__ import annotations


def yaml_fault(error: Exception, text: str) -> tuple[int, str]:
    """Return the line and the fault that an error of PyYAML names.

    Its own text says "<unicode string>" where the file's name belongs, and has several lines.
    """
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else text.count("\n", 0, getattr(error, "position", 0)) + 1
    fault = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if "expected a single document" in str(getattr(error, "context", "")):
        fault = "two documents in one file"
    return line, " ".join(str(fault).split())
