"""Storage v3: a task's input from HKube's storage, and its result into it, in a process of its own.

Imported by serving and worker_stub.
"""
