"""The process that holds a task's ZeroMQ sockets, and the parent's handle on it.

Imported by app, local_stream and serving.
"""
