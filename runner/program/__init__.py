"""A program that speaks HKube's protocol as the algorithm: its connection, and what it may say; imported by serving."""
