"""Uses the api of a task in a thread after that task has ended."""

import threading

apis = []


def later(api):
    for _ in range(100):
        api.wait_for_stop(0.001)


def start(args, api):
    apis.append(api)
    threading.Thread(target=later, args=(api,), daemon=True).start()
    return [len(apis), len({id(one) for one in apis}), [one.stopping for one in apis]]
