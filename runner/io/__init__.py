"""The event loop and what reads and writes on it; knows nothing of tasks, and all of runner may import it."""
