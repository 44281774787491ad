"""A stateless node: start() is called for each message, and what it returns goes to the next nodes."""


def start(args, api):
    message = args["streamInput"]["message"]
    return {"number": message["number"], "celsius": (message["fahrenheit"] - 32) * 5 / 9}
