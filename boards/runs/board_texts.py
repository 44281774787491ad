"""Texts and chart layouts, encoded for TensorBoard's tabs Text and Custom Scalars.

Encoded by hand like event_files.py: summary.proto, tensor.proto and plugins/custom_scalar/layout.proto.
"""

from __future__ import annotations

from .event_files import bytes_field

# TensorProto: dtype = 1 with DT_STRING 7, tensor_shape = 2 without dimensions; one string_val = 8 follows.
_ONE_STRING = b"\x08\x07\x12\x00"
_TENSOR_CLASS = b"\x20\x02"  # SummaryMetadata: data_class = 4 with DATA_CLASS_TENSOR 2
_LAYOUT = "custom_scalars__config__"  # the tag by which the plugin finds layouts
_CODE_INDENT = "    "  # of a code block in Markdown, in which nothing else has a meaning


def text_value(tag: str, text: str) -> bytes:
    """Return a Summary.Value that the Text tab shows as it is, every line as one line."""
    lines = "\n".join(_CODE_INDENT + line for line in text.splitlines())
    return _string_value(tag, "text", lines.encode("utf-8", "replace"))


def chart_value(title: str, tags: tuple[str, ...], *, group: str) -> bytes:
    """Return a Summary.Value by which the Custom Scalars tab draws the tags in one chart of the group.

    A board whose runs all have the same chart shows it once, with the curves of all runs.
    """
    # Layout: category = 2. Category: title = 1, chart = 2. Chart: title = 1, multiline = 2 with tag = 1,
    # each a regular expression.
    multiline = b"".join(bytes_field(1, f"^{tag}$".encode()) for tag in tags)
    chart = bytes_field(1, title.encode()) + bytes_field(2, multiline)
    layout = bytes_field(2, bytes_field(1, group.encode()) + bytes_field(2, chart))
    return _string_value(_LAYOUT, "custom_scalars", layout)


def _string_value(tag: str, plugin: str, content: bytes) -> bytes:
    """Return a Summary.Value: tag = 1, tensor = 8, metadata = 9 with plugin_data = 1, its plugin_name = 1."""
    metadata = bytes_field(1, bytes_field(1, plugin.encode())) + _TENSOR_CLASS
    tensor = _ONE_STRING + bytes_field(8, content)
    return bytes_field(1, tag.encode()) + bytes_field(8, tensor) + bytes_field(9, metadata)
