"""A folder for sys.path with one package, which gives the algorithm's folder a name. Imported by nobody."""
