"""The child that runs user code, and what confines it; imports nothing from runner or boards.

`start.py` is executed by file, in the child's interpreter and in the warden's. Imports between the packages
go down only: parent, then child and warden, then isolation, then usage, then codec and linux, then shared.
"""
