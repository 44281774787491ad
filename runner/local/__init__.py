"""The worker that hkrunner brings along for runs without a cluster."""
