"""hkrunner.run() and its types; imported only by the package hkrunner itself and the pytest plugin."""
