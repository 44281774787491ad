"""What we ask of the kernel: /proc, cgroups, Landlock, signals to a tree.

All of sandbox, boards and runner may import it.
"""
