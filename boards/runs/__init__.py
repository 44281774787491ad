"""Records of tasks, written while they run and read back later. All of boards and runner may import it."""
