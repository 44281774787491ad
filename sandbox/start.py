"""Executed by file: `python start.py child|warden|forwarder …`. Imports our own modules, then calls main().

Our modules come in under the private name `_hkrunner`, from the folder this file lies in. So nothing of
ours needs to be installed for the interpreter that runs the child, and no module of the user's can be
taken for one of ours or the other way round. Python 3.8 and newer.
"""

from __future__ import annotations

import sys


def __getattr__(name: str) -> object:
    """Return what the algorithm's file defines: pickles that it wrote as a script name it `__main__`.

    This file is `__main__` in the algorithm's process, and in those that multiprocessing spawns for it: there
    it is run once more, under another name.
    """
    import importlib
    import os

    entry = os.environ.get("_HKRUNNER_ENTRY")
    if not entry or name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(entry), name)
    return value


def _make_package(here: str) -> None:
    """Have our modules found below `_hkrunner`."""
    package = type(sys)("_hkrunner")
    package.__path__ = [here[: -len("/sandbox")]]
    sys.modules["_hkrunner"] = package


def _prepare_for_refusals() -> None:
    """Have what a process that multiprocessing has spawned serves bear that the brake refuses it memory."""
    try:
        import resource

        if resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
            return
        _make_package(__file__[: -len("/start.py")])
        from _hkrunner.sandbox.child.manager_server import accept_again_in_spawned
        from _hkrunner.sandbox.child.memory_reserve import notice_lost_threads
        from _hkrunner.sandbox.child.whole_messages import keep_messages_whole_in_spawned

        notice_lost_threads(stacks_count=True)
        accept_again_in_spawned()
        keep_messages_whole_in_spawned()
    except Exception:  # noqa: BLE001 - no memory, most likely: it goes without
        pass


if __name__ == "__mp_main__":
    _prepare_for_refusals()
elif __name__ == "__main__":
    # What a bare interpreter has loaded: the only modules that a user's own files cannot stand in for.
    bare = frozenset(sys.modules)
    import errno
    import gc
    import os

    # Nothing of an import is garbage, and to look for it takes a tenth of the time. Each main() turns it on.
    collects = gc.isenabled()
    gc.disable()
    here = os.path.dirname(os.path.abspath(__file__))
    # The interpreter puts the folder of the script first; a module named `limits` or `entry` of the
    # user's must not be found here.
    if sys.path and sys.path[0] == here:
        del sys.path[0]
    _make_package(here)
    # Before 3.10 a module of the standard library that we import needs the real one.
    untyped = "typing" not in sys.modules and sys.version_info >= (3, 10)
    if untyped:
        from _hkrunner.sandbox import typing_stand_in as stand_in

        sys.modules["typing"] = stand_in
    if sys.argv[1] == "child":
        try:
            from _hkrunner.sandbox.child.main import main
        except (MemoryError, SystemError):  # the latter where an interpreter forgets the former
            os._exit(1)  # the warden knows of the limit, which leaves no room for any code of the user's
        except (ImportError, OSError) as error:  # so the loader of libraries and the kernel say it
            if "failed to map segment" not in str(error) and getattr(error, "errno", 0) != errno.ENOMEM:
                raise
            os._exit(1)
    elif sys.argv[1] == "forwarder":
        from _hkrunner.sandbox.isolation.forwarder import main as forwarder_main
    else:
        from _hkrunner.sandbox.warden.warden import main as warden_main
    if untyped:
        del sys.modules["typing"]
    if sys.argv[1] == "child":
        main(bare, collects)
    elif sys.argv[1] == "forwarder":
        forwarder_main()
    else:
        warden_main()
