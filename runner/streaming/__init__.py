"""Streaming: the process that holds a task's ZeroMQ sockets, and the parent's handle on it."""
