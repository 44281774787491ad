"""The parent: the link to the worker, and one task at a time."""
