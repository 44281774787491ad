"""Reports of recorded tasks, as one HTML page that needs no network; may import runs."""
