"""The client of a cluster's API server: addresses, login, requests, jobs and their results."""
