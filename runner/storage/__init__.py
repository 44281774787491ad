"""Storage v3: reads a task's input from HKube's storage and writes its result there, in its own process."""
