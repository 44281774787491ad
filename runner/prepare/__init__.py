"""From settings to what can be run: code, interpreter, GPUs, inputs; imported by app and cli."""
