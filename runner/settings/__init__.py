"""Options, variables and descriptors, and the frozen Settings made of them.

All packages above it may import it.
"""
