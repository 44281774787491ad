"""Imports msgspec without typing_extensions. Python 3.8 and newer."""

from __future__ import annotations

import sys
from _thread import _count as count_threads  # those beside the main one
from typing import Any

#: From this version on, `typing` has all that msgspec takes from typing_extensions.
_SUFFICES = (3, 11)
_WITHHELD = "typing_extensions"
#: Threads of hkrunner's own. One of the user's may import typing_extensions at this very moment.
_OWN_THREADS = 1


def load() -> Any:
    """Return msgspec. Raises ImportError.

    Where typing_extensions is installed, msgspec imports it, and with it inspect and ast: half of the time,
    and 5 MB of memory for good.
    """
    if sys.version_info >= _SUFFICES and _WITHHELD not in sys.modules and count_threads() <= _OWN_THREADS:
        sys.modules[_WITHHELD] = None  # type: ignore[assignment]
        try:
            import msgspec
        except ImportError:  # it is not installed; or an import hook of the user's wants what is withheld
            pass
        finally:
            sys.modules.pop(_WITHHELD, None)
    import msgspec

    return msgspec
