"""What a folder starts with when nobody says a file."""


def start(args, api):
    return "main"
