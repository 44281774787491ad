"""Has more than one function to start with."""


def train(args, api):
    return ["trained", args["input"]]


def test(args):
    return ["tested", args["input"]]


def main():
    return "not this"
