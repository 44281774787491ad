"""A program that speaks HKube's protocol as the algorithm, and what it may say. Imported by serving."""
