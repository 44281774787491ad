"""The first node of a stream: sends readings, then ends, and with it the pipeline."""


def start(args, api):
    (readings,) = args["input"]
    for number in range(readings):
        if api.stopping:
            break
        api.sendMessage({"number": number, "fahrenheit": 50 + number % 9})
