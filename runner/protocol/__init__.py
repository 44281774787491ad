"""What the worker and we say, task states, results, error codes, without I/O. All of runner may import it."""
