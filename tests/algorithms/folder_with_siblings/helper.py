import os

NAME = "helper"


def own_folder():
    return os.path.basename(os.getcwd())
