"""Raises while it is imported."""


def read_model():
    raise FileNotFoundError("model.bin is not there")


read_model()


def start(args, api):
    return "never"
