"""hkrunner.run() and its types; imported by nobody but the package hkrunner itself and the pytest plugin."""
