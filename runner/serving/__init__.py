"""One algorithm served to one worker: the supervisor, its children, the running task.

Imported by app, local_stream and python_api.
"""
