"""Has a class for a start: calling it makes the result."""


class start(dict):
    def __init__(self, args, api):
        super().__init__(got=args["input"])
