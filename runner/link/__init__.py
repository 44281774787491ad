"""The WebSocket to the worker, which knows no settings. Imported by app, program and serving."""
