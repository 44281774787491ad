"""Takes whatever it is given."""


def start(*args, **more):
    return [len(args), sorted(more)]
