"""The parent: it owns the connection to the worker and serves one task at a time.

Anybody may import `errors`; `entry_point`, `python_api` and `pytest_plugin` are what the outside calls.
Imports between the packages go down only: python_api, cli, app, local_stream, serving, then cluster, image,
program and streaming, then console and prepare, then worker_stub, then storage, then link and settings, then
protocol and io.
"""
