"""What we ask of the kernel: /proc, cgroups, Landlock, signals to a tree; all of sandbox may import it."""
