"""The options of `hkrunner run` that concern the connection to a worker."""

from __future__ import annotations

from ...sandbox.codec import ENCODINGS
from .option import Option, flag
from .worker_url import DEFAULT_URL

SERVING_OPTIONS = (
    Option(
        "url",
        ("--url",),
        "The worker's WebSocket.",
        ("WORKER_SOCKET_URL",),
        default_text=f"WORKER_SOCKET_PROTOCOL/HOST/PORT, else {DEFAULT_URL}",
        metavar="ws://HOST:PORT",
    ),
    Option(
        "transport",
        ("--transport",),
        "What the worker serves: ws, a plain WebSocket; socketio, socket.io 2, which HKube calls socket and"
        " whose messages are json whatever --encoding says.",
        ("WORKER_ALGORITHM_PROTOCOL",),
        default="ws",
        kind="choice",
        choices=("ws", "socketio", "socket"),
    ),
    Option(
        "encoding",
        ("--encoding",),
        "Encoding of the messages on the WebSocket.",
        ("WORKER_ALGORITHM_ENCODING",),
        default="json",
        kind="choice",
        choices=ENCODINGS,
        in_validate=True,
        is_recorded=True,
    ),
    Option(
        "storage",
        ("--storage",),
        "Who moves inputs and results: v1, the worker; v3, hkrunner, from and to the storage that HKube's"
        " variables describe.",
        ("STORAGE_PROTOCOL",),
        default="v1",
        kind="choice",
        choices=("v1", "v3"),
    ),
    Option(
        "storage_timeout_s",
        ("--storage-timeout",),
        "With --storage v3: fail a task whose storage moves no byte for this many seconds.",
        ("HKRUNNER_STORAGE_TIMEOUT",),
        default="60",
        kind="seconds",
    ),
    Option(
        "connect_timeout_s",
        ("--connect-timeout",),
        "Give up, with exit status 5, after this many seconds without a worker.",
        ("HKRUNNER_CONNECT_TIMEOUT",),
        default_text="never",
        kind="seconds",
    ),
    Option(
        "api_errors",
        ("--api-errors",),
        "What a failed call of the code API does: raise an exception, or return the error's text as HKube's"
        " own wrapper does.",
        ("HKRUNNER_API_ERRORS",),
        default="raise",
        kind="choice",
        choices=("raise", "return"),
        in_worker=True,
        is_recorded=True,
    ),
    flag(
        "redirect_logs",
        ("--redirect-logs",),
        "Send what the algorithm prints to the worker too; HKube's debug server shows it.",
        ("REDIRECT_LOGS",),
        needs_process=True,
    ),
)
