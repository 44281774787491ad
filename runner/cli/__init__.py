"""The command line, one file a command: the only package that knows click, imported by `entry_point`."""
