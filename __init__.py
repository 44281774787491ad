"""hkrunner runs HKube algorithms in a supervised process of their own.

The command is `hkrunner`; hkrunner.run() is the same in a Python program,
and hkrunner.Pool an executor of concurrent.futures.
"""

__version__ = "0.1.0"

__all__ = [
    "ClusterError",
    "EntryNotFound",
    "EntryUnusable",
    "HkrunnerError",
    "Incomplete",
    "InstallFailed",
    "Pool",
    "Printed",
    "RunEvent",
    "SettingsError",
    "TaskError",
    "TaskFailed",
    "TaskLogs",
    "TaskResult",
    "TaskResults",
    "__version__",
    "run",
]

# Not typing's: nothing is imported here, since every process of ours begins with this file.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .runner.errors import (
        ClusterError,
        EntryNotFound,
        EntryUnusable,
        HkrunnerError,
        InstallFailed,
        SettingsError,
    )
    from .runner.python_api.pool import Pool
    from .runner.python_api.results import (
        Incomplete,
        Printed,
        RunEvent,
        TaskError,
        TaskFailed,
        TaskLogs,
        TaskResult,
        TaskResults,
    )
    from .runner.python_api.run import run
else:

    def __getattr__(name):
        """Import what is asked for when it is asked for (PEP 562)."""
        if name in __all__:
            from importlib import import_module

            for place in ("errors", "python_api.results", "python_api.run", "python_api.pool"):
                module = import_module(f".runner.{place}", __name__)
                if hasattr(module, name):
                    return getattr(module, name)
        raise AttributeError(f"module 'hkrunner' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
