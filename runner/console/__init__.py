"""What is shown of a run: terminal, JSON events, status line, files. All packages above it may import it."""
