"""Has the method of an object for a start."""


class Algorithm:
    def __init__(self, model):
        self.model = model

    def run(self, args, api):
        return [self.model, args["input"]]

    def halt(self, options):
        pass


algorithm = Algorithm("model")
start, stop = algorithm.run, algorithm.halt
