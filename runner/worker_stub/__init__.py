"""A stand-in for HKube's worker, for runs without a cluster; imported by app, it knows no settings."""
