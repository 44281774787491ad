"""hkrunner.run(), hkrunner.Pool and their types, which `import hkrunner` finds. Imported by pytest_plugin."""
