"""hkrunner runs HKube algorithms in a supervised process of their own."""

__version__ = "0.1.0"
