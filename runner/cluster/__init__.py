"""The client of a cluster's API server: addresses, login, requests, jobs, results.

Imported by app and cli.
"""
