"""What the worker and we say, task states, results, error codes: no I/O; all of runner may import it."""
