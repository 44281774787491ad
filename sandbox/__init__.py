"""The child that runs user code, and what confines it."""
