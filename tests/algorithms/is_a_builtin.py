"""Has a function written in C for a start."""

start = len
