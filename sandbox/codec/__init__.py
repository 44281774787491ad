"""HKube's messages as bytes, decoded and encoded once, in the child; child and runner import it."""

#: The encodings of HKube's WebSocket. Declared here, because codec.py takes longer to import than options may take.
ENCODINGS = ("json", "bson", "msgpack")
