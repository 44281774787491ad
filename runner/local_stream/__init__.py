"""A stream pipeline on this machine: its nodes, their replicas, what is shown. Imported by app."""
