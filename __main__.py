"""python -m hkrunner is the hkrunner command."""

from .runner.command import main

if __name__ == "__main__":
    main()
