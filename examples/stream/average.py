"""The last node: a listener is called for each message; the result is there once the stream ends."""


def start(args, api):
    values = []

    def take(message, origin):
        values.append(message["celsius"])

    api.registerInputListener(take)
    api.startMessageListening()
    api.wait_for_stop()
    return {"messages": len(values), "average": round(sum(values) / max(len(values), 1), 2)}
