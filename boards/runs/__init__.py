"""Records of tasks, written while they run and read back later; runner and the rest of boards import it."""
