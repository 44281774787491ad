"""A package: this file runs before its parts."""

READY = "ready"
