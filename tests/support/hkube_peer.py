"""HKube's data server and its client, of the Python wrapper: run with the interpreter that has the wrapper.

serve PORT           serve the results t1 and t2 until stdin is closed
ask PORT TASK …      ask for results, print them as JSON
"""

import json
import sys

RESULTS = {"t1": {"a": [1, {"b": "deep"}]}, "t2": b"raw"}


def serve(port: int) -> None:
    from hkube_python_wrapper.communication.DataServer import DataServer
    from hkube_python_wrapper.util.encoding import Encoding

    config = {"host": "127.0.0.1", "port": port, "encoding": "msgpack", "maxCacheSize": 10}
    server = DataServer(config)
    encoding = Encoding("msgpack")
    for task, value in RESULTS.items():
        header, data = encoding.encode(value)
        server.setSendingState(task, header, data, len(data))
    server.listen()
    print("serving", flush=True)
    sys.stdin.read()
    server.shutDown()


def ask(port: int, tasks: "list[str]") -> None:
    from hkube_python_wrapper.communication.DataRequest import DataRequest

    details = {
        "address": {"host": "127.0.0.1", "port": str(port)},
        "tasks": tasks,
        "encoding": "msgpack",
        "timeout": 10_000,
        "networkTimeout": 5_000,
    }
    print(json.dumps([value for _, value in DataRequest(details).invoke()]))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        ask(int(sys.argv[2]), sys.argv[3:])
