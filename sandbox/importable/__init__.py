"""A folder for sys.path, with one package in it: a name for the algorithm's folder where Python has none."""
