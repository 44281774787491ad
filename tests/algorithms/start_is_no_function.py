"""Has a start that cannot be called."""

start = 42
