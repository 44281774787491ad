"""A stand-in for HKube's worker, for runs without a cluster. Imported by app, local_stream and python_api."""
