"""The command `hkrunner`: starts the warden of a run, then imports everything else."""

from __future__ import annotations

# What every interpreter contains or has loaded before it searches PYTHONPATH; everything else is imported
# after look_last_in_python_path().
import gc
import os
import sys

from .errors import has_lost_error

# Not typing's, for the same reason.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

#: With one of these options no algorithm is started, or not below a warden.
_NO_WARDEN = frozenset(("-h", "--help", "--version", "--dry-run", "--in-process", "--pdb"))


def main() -> NoReturn:
    """Run the command with the arguments of this process."""
    try:
        _main()
    except KeyboardInterrupt:  # before a loop handles SIGINT
        sys.exit(130)
    except (MemoryError, SystemError) as error:  # during an import: cli/main.py says more
        if isinstance(error, SystemError) and not has_lost_error(error):
            raise
        sys.exit("hkrunner: hkrunner itself has no memory left (ulimit -v, ulimit -d)")
    except ImportError as error:
        home = os.environ.get("PYTHONHOME")
        if not home or error.name not in sys.stdlib_module_names:
            raise
        sys.exit(f"hkrunner: {error}: PYTHONHOME is {home}, which is another Python's: unset it")


def _main() -> NoReturn:
    look_last_in_python_path()
    from .io.signals import reset_inherited_signals
    from .io.standard_streams import fill_standard_streams

    reset_inherited_signals()
    # On other systems, cli/main.py reports that hkrunner needs Linux.
    if sys.platform == "linux" and _starts_algorithm(sys.argv[1:]):
        gc.disable()  # until app.run.resume_garbage_collection(): imports leave no garbage
        fill_standard_streams()  # before a socket of ours can get one of their numbers
        from ..sandbox.parent import warden_launch

        try:
            warden_launch.prepare()
            _run()
        except SystemExit as end:
            leave(end)
        except KeyboardInterrupt:
            leave(SystemExit(130))
        finally:
            warden_launch.discard()
    _run()


def look_last_in_python_path() -> None:
    """Move the folders of PYTHONPATH to the end of sys.path: they are for the algorithm.

    A socket.py or a random.py in one of them replaced the standard library's for hkrunner as well. They stay
    at the end, for an hkrunner that is itself found by PYTHONPATH.
    """
    folders = {os.path.abspath(one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one}
    if folders:
        sys.path.sort(key=lambda one: os.path.abspath(one) in folders)
        _forget_replaced_modules(folders)


def _forget_replaced_modules(folders: set[str]) -> None:
    """Have the next import of a standard module find the real one, where one of the folders had another.

    The script that an older pip (24.2) writes for the command imports re before it calls main().
    """
    real = os.path.dirname(os.__file__) + os.sep  # PYTHONPATH may name the standard library itself
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name.partition(".")[0] in sys.stdlib_module_names and not file.startswith(real):
            folder = os.path.dirname(file)
            if folder in folders or os.path.dirname(folder) in folders:
                del sys.modules[name]


def leave(end: SystemExit) -> NoReturn:
    """Exit without finalizing the interpreter, which takes 10 ms; everything is closed already."""
    if not isinstance(end.code, int):
        raise end
    from ..sandbox.parent import warden_launch

    warden_launch.discard()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # inherited closed
            try:
                stream.flush()
            except (OSError, ValueError):
                raise end from None  # the interpreter reports it
    os._exit(end.code & 0xFF)


def _run() -> NoReturn:
    from .io.lean_imports import import_late

    import_late("inspect")  # imported by click, dataclasses and websocket-client, and hardly ever used
    from .cli.main import main as run

    run()


def _starts_algorithm(args: Sequence[str]) -> bool:
    """Whether these arguments start an algorithm, as a guess: a wrong one costs 20 ms of start-up time."""
    if not _NO_WARDEN.isdisjoint(args):
        return False
    return not args or args[0] == "run" or args[0].startswith("-") or "." in args[0] or "/" in args[0]
