"""What each command does, without click; imported by cli and python_api, it imports all other packages."""
