"""Isolates the algorithm with `--sandbox strict`: namespaces, a root folder, a filter of system calls.

Imported by parent, start, warden and runner.
"""
