"""The process that runs user code: it loads the entry and serves tasks; imported by in-process runs alone."""
