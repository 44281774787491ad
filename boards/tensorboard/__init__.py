"""One TensorBoard server: its process, its data server, its pages.

Imported by rest_routes, rest_server and runner.
"""
