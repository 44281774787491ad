"""HKube's messages as bytes, decoded and encoded once, in the child. Imported by child, boards and runner."""

#: The encodings of HKube's WebSocket. Not in codec.py, because that takes options longer to import.
ENCODINGS = ("json", "bson", "msgpack")
#: The encoding of HKube's socket.io: JSON, and attachments for values of bytes (attachments.py).
SOCKET_IO = "socket.io"
