"""The meaning of the fields of --json and of the events of --output jsonl, which the code does not state.

generated.py compares the names with those in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """A field of a JSON object: its type as JSON Schema names it, its unit, its meaning, when it is null."""

    kind: str
    unit: str
    meaning: str
    null: str = ""


RESULT: Mapping[str, Field] = {
    "taskId": Field("string", "", "The task. Local ones are `t1`, `t2`, …; HKube's have ids of HKube's."),
    "jobId": Field("string", "", "The job; all tasks of one local run have one, named after its time."),
    "nodeName": Field("string", "", "The node; in a local run the algorithm's name."),
    "pipelineName": Field("string", "", "The pipeline; `local` in a local run."),
    "status": Field("string", "", "`succeed`, `failed` or `stopped`: HKube's words."),
    "reason": Field(
        "string",
        "",
        "`AlgorithmError`, `MemoryLimit`, `CpuLimit`, `Timeout`, `LoadError`, `Crashed` or `Stopped`. Which "
        "code has which: [error codes](errors.md).",
        "it has succeeded",
    ),
    "error": Field(
        "object",
        "",
        "`code`, `message` and `details`, all texts: [error codes](errors.md). `details` is the traceback, "
        "or empty.",
        "there is none",
    ),
    "startTime": Field("integer", "ms since 1970", "When the task began."),
    "endTime": Field("integer", "ms since 1970", "When it ended."),
    "durationMs": Field("number", "ms", "How long it took, by a clock that nobody sets back."),
    "peakMemBytes": Field(
        "integer",
        "bytes",
        "The most memory at a time, of all its processes together; what they share counts once.",
        "it was not measured: the code could not be loaded, or another wrapper ran it (`hkrunner worker`)",
    ),
    "memLimitBytes": Field("integer", "bytes", "The memory limit that held.", "there was none"),
    "cpuSeconds": Field("number", "s", "CPU time of all its processes.", "as `peakMemBytes`"),
    "protection": Field(
        "object",
        "",
        "What held the limits: `line` is the sentence of the start, `level` is `cgroup` or `sampling`, "
        "`signals_confined` tells whether the algorithm could signal others.",
        "no process was started for it",
    ),
    "metricsDir": Field(
        "string", "", "The folder of its event files, absolute.", "nothing is kept (`--no-state`)"
    ),
    "logs": Field(
        "object",
        "",
        "`stdout` and `stderr`: the files with what it printed. One that serves makes them when something is "
        "printed.",
        "nothing is kept (`--no-state`)",
    ),
    "output": Field(
        "any", "", "What start() returned. Only of `--json`.", "it has not succeeded, or returned None"
    ),
}


@dataclass(frozen=True)
class Happening:
    """An event of `--output jsonl`: when it comes, and its fields beside event, time and taskId."""

    when: str
    fields: str


EVENTS: Mapping[str, Happening] = {
    "loaded": Happening("the code is loaded, once a process", "`entry`, `methods`, `python`"),
    "connected": Happening("the connection to the worker is there", "`url`, `encoding`"),
    "initialized": Happening("a task has begun, init() has returned", "`jobId`, `nodeName`, `pipelineName`"),
    "started": Happening("start() is called", ""),
    "progress": Happening("`api.progress(…)`", "`progress` (0 to 100), `details`"),
    "sample": Happening(
        "what it uses, about once a second", "`cpuCores` (cores), `memoryBytes` (bytes), `processes`"
    ),
    "log": Happening("it has printed a line", "`stream` (`stdout`, `stderr`), `line`"),
    "warning": Happening("hkrunner has said something that `--quiet` does not silence", "`text`"),
    "killed": Happening(
        "hkrunner has ended it; the `errorMessage` follows",
        "`code`, `used` and `allowed` in the limit's unit, `processes` as `[pid, name, bytes]`",
    ),
    "done": Happening("the task has a result", "all of the result object"),
    "errorMessage": Happening("the task has failed", "all of the result object"),
    "stopped": Happening("the task was stopped", "all of the result object"),
    "board": Happening("the board of `--board` answers", "`id`, `url`"),
}
