"""The process that runs user code: it loads the entry and serves tasks. Imported by start and runner."""
