"""What each command does, without click. Imported by cli and python_api."""
