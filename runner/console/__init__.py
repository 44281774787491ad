"""What is shown of a run: terminal, JSON events, status line, files; imported by app, serving and cli."""
