"""Has an object for a start."""


class Start:
    def __call__(self, args, api):
        return ["called", args["input"]]


start = Start()
