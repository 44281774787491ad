"""What a tree of processes uses: memory, CPU, shared memory, disk; imported by the warden."""
