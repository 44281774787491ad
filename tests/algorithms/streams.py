"""One algorithm for every node of a stream; the first item of its input says what it does."""

import os
import threading
import time

stopped = threading.Event()


def stop(args):
    stopped.set()


def start(args, api):
    what, *more = args["input"]
    return globals()[what](args, api, *more)


def produces(args, api, messages, flow=None):
    """Send these messages, then return; a text that begins with `raw:` is sent as bytes."""
    for one in messages:
        is_raw = isinstance(one, str) and one.startswith("raw:")
        api.sendMessage(one.encode("latin-1") if is_raw else one, flow)
    return len(messages)


def counts(args, api, number, every_s=0.0):
    """Send 0, 1, 2, … and return at the end, or when it is stopped."""
    sent = 0
    while sent < number and not stopped.wait(every_s):
        api.sendMessage({"number": sent})
        sent += 1
        if sent == 100:
            print("sent 100", flush=True)
    print("ended after", sent, flush=True)


def sends_large(args, api, number, size):
    """Send this many messages of this many bytes of text."""
    for one in range(number):
        api.sendMessage(f"{one}".ljust(size))


def gives_back(args, api):
    """Return the message of a stateless call."""
    return args["streamInput"]["message"]


def says_who_it_is(args, api, folder):
    """Return the message of a stateless call, and the process that handles it, once two of them have one."""
    open(os.path.join(folder, str(os.getpid())), "w").close()
    while len(os.listdir(folder)) < 2:
        time.sleep(0.005)
    return {**args["streamInput"]["message"], "process": os.getpid()}


def fails_once(args, api, file):
    """Return the message of a stateless call, but for one of them: that one fails the first time."""
    message = args["streamInput"]["message"]
    if message["number"] == 10 and not os.path.exists(file):
        open(file, "w").close()
        raise ValueError("this one fails")
    return message


def collects_until_it_is_stopped(args, api):
    """Return all messages, with their origins."""
    return collects(args, api, float("inf"))


def measures(args, api, number):
    """Return the first word and the length of this many messages."""
    return [[int(message), len(message)] for message, _ in collects(args, api, number)]


def collects(args, api, number):
    """Return this many messages, with their origins."""
    got, enough = [], threading.Event()

    def take(message, origin):
        got.append([message.decode("latin-1") if isinstance(message, bytes) else message, origin])
        print("got", len(got), flush=True)
        if len(got) >= number:
            enough.set()

    api.registerInputListener(take)
    api.startMessageListening()
    while not enough.wait(0.05) and not stopped.is_set():
        pass
    return got


def misbehaves(args, api, file):
    """Write each message to a file; some messages say what to do then."""

    def take(message, origin):
        with open(file, "a") as out:
            out.write(f"{message}\n")
        if message == "raise":
            raise ValueError("a bad message")
        if message == "hang":
            threading.Event().wait()
        if message == "die":
            os.kill(os.getpid(), 9)

    api.registerInputListener(take)
    api.startMessageListening()
    stopped.wait()


def abuses(args, api, number):
    """Misuse the API in each call of the listener; return what was refused, after a forced stop."""
    refused, enough, left = [], threading.Event(), []

    def refuses(function, *given):
        try:
            function(*given)
        except Exception as error:
            refused.append(f"{type(error).__name__}: {error}")

    def take(message, origin):
        refuses(api.sendMessage, threading.Lock())
        refuses(api.sendMessage, message, "no flow")
        refuses(api.sendMessage, message, ["chain"])
        if os.fork() == 0:
            try:
                api.sendMessage("from a fork")
            finally:
                os._exit(0)
        os.wait()
        senders = [threading.Thread(target=api.sendMessage, args=(f"{one}" * 70_000, "chain")) for one in range(10)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        left.append(message)
        if len(left) == number:
            api.stopStreaming(force=False)  # from within: it cannot wait for this call
            enough.set()

    api.registerInputListener(take)
    api.startMessageListening()
    enough.wait()
    api.stopStreaming()
    refuses(api.sendMessage, 1)
    return refused
