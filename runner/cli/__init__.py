"""The command line, one file a command, the only package that knows click.

Imported by entry_point and python_api.
"""
