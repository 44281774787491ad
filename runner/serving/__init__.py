"""One algorithm served to one worker: the supervisor, its children, the running task; imported by app."""
