"""What both the parent and the child need to know of HKube's code API."""

from __future__ import annotations

#: Commands with which the worker answers a call of the code API (HKube core/worker lib/code-api). The
#: parent passes these messages on to the child unread.
ANSWERS = frozenset(
    (
        "algorithmExecutionDone",
        "algorithmExecutionError",
        "subPipelineStarted",
        "subPipelineDone",
        "subPipelineError",
        "subPipelineStopped",
        "subPiplineStopped",  # as HKube's documentation spells it
        "dataSourceResponse",
        "dataSourceResponseError",
        "streamingInMessage",
    )
)
