"""HKube's messages as bytes, decoded and encoded once, in the child. Imported by child, boards and runner."""

#: The encodings of HKube's WebSocket. Not in codec.py, whose import would delay reading the options.
ENCODINGS = ("json", "bson", "msgpack")
#: The encoding of HKube's socket.io: JSON, and attachments for values of bytes (attachments.py).
SOCKET_IO = "socket.io"
#: How a `done` begins that hkrunner encodes in JSON: the result and a closing brace follow.
DONE_JSON = b'{"command":"done","data":'
