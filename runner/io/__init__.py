"""The event loop and what reads and writes on it, without knowledge of tasks. All of runner may import it."""
