"""Does what its input says with the code API; in one task, one thing."""

import signal
import threading

signal.alarm(100)


def start(args, api):
    what, *values = args["input"]
    return globals()[what](api, *values)


def run(api, name, input, *more):
    return api.start_algorithm(name, input, *more)


def link(api, name, input):
    call = api.begin_algorithm(name, input, includeResult=False)
    return call.result(), api.start_algorithm(name, input, includeResult=False)


def fail(api, name, input):
    try:
        api.start_algorithm(name, input)
    except api.AlgorithmExecutionError as error:
        return str(error)


def many(api, name, count):
    calls = [api.begin_algorithm(name, [number, number]) for number in range(count)]
    return [call.result(timeout=30) for call in calls]


def threads(api, name, count):
    results = [None] * count

    def one(number):
        results[number] = api.start_algorithm(name, [number, 1])

    running = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return results


def late(api, name):
    try:
        api.start_algorithm(name, [], timeout=0.3)
    except api.Timeout as error:
        return str(error)


def stopped(api, name):
    call = api.begin_algorithm(name, [])
    call.stop("enough")
    try:
        call.result()
    except api.TaskStopped as error:
        return str(error)


def raw(api, nodes, flow, options=None):
    return api.start_raw_subpipeline("p", nodes, flow, options)


def raw_fails(api, nodes, flow, options=None):
    try:
        api.start_raw_subpipeline("p", nodes, flow, options)
    except api.SubPipelineError as error:
        return str(error)


def raw_link(api, nodes, flow):
    return api.begin_raw_subpipeline("p", nodes, flow, includeResult=False).result()


def stored(api, name, flow):
    return api.start_stored_subpipeline(name, flow)


def stored_fails(api, name):
    try:
        api.start_stored_subpipeline(name)
    except api.SubPipelineError as error:
        return str(error)


def stop_pipeline(api, nodes):
    call = api.begin_raw_subpipeline("p", nodes, {})
    api.stop_subpipeline(call)
    try:
        call.result()
    except api.TaskStopped as error:
        return str(error)


def source(api, name):
    error, found = api.getDataSource({"dataSourceId": name})
    return [error, found["name"], [(file["name"], file["size"]) for file in found["files"]]]


def no_source(api, name):
    try:
        api.getDataSource({"dataSourceId": name} if name else {})
    except api.DataSourceError as error:
        return str(error)


def spans(api):
    with api.span("outer", {"depth": 0}):
        with api.span("inner"):
            api.progress(50, "half")
    api.start_span("left open")


def failing_spans(api):
    api.start_span("first")
    api.start_span("second")
    raise ValueError("in the second span")


def without_id(api):
    send = api._send

    def without(message):
        message["data"].pop("execId")
        send(message)

    api._send = without
    try:
        api.start_algorithm("adds", [1], timeout=20)
    except api.AlgorithmExecutionError as error:
        return str(error)


def leave_one_running(api, name):
    api.begin_algorithm(name, [])
    return "left"


def wait_for(api, name):
    print("asks", flush=True)
    try:
        api.start_algorithm(name, [])
    except api.TaskStopped:
        print("released", flush=True)
        raise
