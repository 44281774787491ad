"""The OCI image of an algorithm: what is in it, and which engine builds it; imported by app."""
