"""Texts and chart layouts for TensorBoard's tabs Text and Custom Scalars.

A layout is encoded by hand like event_files.py: plugins/custom_scalar/layout.proto.
"""

from __future__ import annotations

from .event_files import bytes_field

#: The tag by which the Custom Scalars tab finds layouts.
LAYOUT = "custom_scalars__config__"
_CODE_INDENT = "    "  # of a code block in Markdown, in which nothing else has a meaning


def shown_as_it_is(text: str) -> bytes:
    """Return the text such that the Text tab shows it as it is, every line as one line."""
    lines = "\n".join(_CODE_INDENT + line for line in text.splitlines())
    return lines.encode("utf-8", "replace")


def chart_layout(title: str, tags: tuple[str, ...], *, group: str) -> bytes:
    """Return a layout by which the Custom Scalars tab draws the tags in one chart of the group.

    A board whose runs all have the same chart shows it once, with the curves of all runs.
    """
    # Layout: category = 2. Category: title = 1, chart = 2. Chart: title = 1, multiline = 2 with tag = 1,
    # each a regular expression.
    multiline = b"".join(bytes_field(1, f"^{tag}$".encode()) for tag in tags)
    chart = bytes_field(1, title.encode()) + bytes_field(2, multiline)
    return bytes_field(2, bytes_field(1, group.encode()) + bytes_field(2, chart))
