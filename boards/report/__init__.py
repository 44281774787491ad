"""Reports of recorded tasks, as one HTML page that needs no network. Imported by runner."""
