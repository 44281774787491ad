"""What is kept of tasks: written while they run, read back later; runner and the rest of boards import it."""
