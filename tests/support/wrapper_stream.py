"""A node of a stream by hkube-python-wrapper's own listener and producer: passes each message on.

python wrapper_stream.py ENCODING PORT_OF_A OWN_PORT: be node B between A and C. Prints what it is given.
Python 3.8 and newer.
"""

import sys
import time

from hkube_python_wrapper.communication.streaming.MessageListener import MessageListener
from hkube_python_wrapper.communication.streaming.MessageProducer import MessageProducer

encoding, parent, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
producer = MessageProducer(
    {"port": port, "messagesMemoryBuff": 10, "encoding": encoding, "statisticsInterval": 1}, ["C"], "B"
)
producer.start()


def take(flow, message, origin):
    print("got", origin, repr(message), flow, flush=True)
    producer.produce(flow, message)


listener = MessageListener(
    {
        "remoteAddress": "tcp://127.0.0.1:" + parent,
        "encoding": encoding,
        "delay": 10,
        "messageOriginNodeName": "A",
    },
    "B",
)
listener.registerMessageListener(take)
listener.start()
time.sleep(600)
