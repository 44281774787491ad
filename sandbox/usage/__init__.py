"""Measures what a tree of processes uses: memory, CPU, shared memory, disk. Imported by warden."""
