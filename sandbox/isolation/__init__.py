"""Isolates the algorithm, for `--sandbox strict`: namespaces, a root folder, a filter of system calls."""
