"""Reports the folder of its input, to every pipe that it has, as shared memory that it has made."""

import os


def start(args):
    folder = args["input"][0]
    facts = os.stat(folder)
    told = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("pipe:") and int(name) > 2:
                os.write(int(name), b"%d %d %s\0" % (facts.st_dev, facts.st_ino, os.fsencode(folder)))
                told.append(name)
        except OSError:  # it is closed again, or to be read from
            pass
    return len(told)
