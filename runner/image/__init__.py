"""The OCI image of an algorithm: what is in it, and which engine builds it. Imported by app."""
