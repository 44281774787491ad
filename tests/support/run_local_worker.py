"""Run hkrunner's local worker, to which a wrapper in any language connects.

    python run_local_worker.py '[1, 2]' '["second task"]'

It prints the port on its first line, then one line of JSON for each answer or problem, and ends when all
tasks are answered. SIGUSR1 stops the task that the client is working on.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from hkrunner.runner.io.loop import Loop
from hkrunner.runner.worker_stub.server import Answer, LocalTask, LocalWorker


def main() -> None:
    inputs = sys.argv[1:]
    left = len(inputs)
    loop = Loop()

    def say(**facts: Any) -> None:
        print(json.dumps(facts), flush=True)

    def answered(answer: Answer) -> None:
        nonlocal left
        say(task=answer.task.task, command=answer.command, message=answer.message)
        left -= 1
        if not left:
            worker.exit(0)
            loop.after(0.2, loop.stop)

    def problem(text: str) -> None:
        say(problem=text)

    worker = LocalWorker(
        loop, on_answer=answered, on_problem=problem, on_client=lambda there: say(client=there)
    )
    print(worker.listen(), flush=True)
    loop.on_signal(signal.SIGUSR1, worker.stop)
    for number, text in enumerate(inputs, 1):
        worker.submit(LocalTask(f"t{number}", "job1", "green", "green-alg", "simple", text.encode()))
    try:
        loop.run()
    finally:
        worker.close()
        loop.close()


if __name__ == "__main__":
    main()
