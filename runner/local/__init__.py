"""The local worker: plays HKube's worker for runs without a cluster."""
