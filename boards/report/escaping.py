"""Makes any text harmless in HTML: inputs, outputs, errors and logs are those of other people."""

from __future__ import annotations

import html

#: Joiners of emoji and of scripts: not printable by themselves, and needed for both.
_KEPT = "\n\t\u200c\u200d"


def text(value: object) -> str:
    """Return the text for an element or a quoted attribute, with every other character that cannot be seen
    replaced: lone surrogates cannot be encoded, and signs of direction reorder what follows."""
    shown = str(value)
    if not shown.isprintable():
        shown = "".join(sign if sign.isprintable() or sign in _KEPT else "\ufffd" for sign in shown)
    return html.escape(shown, quote=True)
