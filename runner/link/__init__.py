"""The WebSocket to the worker; imported by app and serving, it knows no settings."""
