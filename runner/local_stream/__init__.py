"""Runs a stream pipeline on this machine: its nodes, their replicas, what is shown; imported by app."""
