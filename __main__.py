"""python -m hkrunner is the hkrunner command."""

from .runner.entry_point import main

if __name__ == "__main__":
    main()
