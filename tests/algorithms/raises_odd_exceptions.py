"""Raises the exception that its input names: each of a class that breaks whoever only looks at it."""


class NoResponse(RuntimeError):
    """As HTTP clients have them: its text is that of a response, and there is none."""

    def __str__(self):
        return self.response.text


class Liar(Exception):
    @property
    def __class__(self):
        raise SystemExit("no class")


class Text(str):
    def __len__(self):
        return -1

    def __format__(self, _form):
        raise KeyboardInterrupt


class WithLyingText(ValueError):
    def __str__(self):
        return Text("its text")


class WithNotes(Exception):
    @property
    def __notes__(self):
        raise LookupError("no notes")


def of_no_module():
    return type("Moved", (Exception,), {"__module__": None})("x")


ODD = {
    "text": NoResponse,
    "module": of_no_module,
    "syntax": lambda: SyntaxError("bad", ("f.cfg", "12", "3", b"x", None, None)),
    "syntax without a line": lambda: SyntaxError("bad", ("f.cfg", None, None, None)),
    "class": Liar,
    "lying text": WithLyingText,
    "notes": WithNotes,
    "errno": lambda: PermissionError([1], "not permitted"),
    "missing module": lambda: ModuleNotFoundError("gone", name=["no", "text"]),
}


tasks = 0


def start(args):
    global tasks
    tasks += 1
    kind = args["input"][0]
    if kind == "behave":
        return f"served {tasks} tasks"
    raise ODD[kind]()
