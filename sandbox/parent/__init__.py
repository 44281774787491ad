"""The parent's handles on its warden and child. Imported by boards and runner."""
