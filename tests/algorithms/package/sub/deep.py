"""Lies in a folder of the folder."""


def start(args, api):
    return ["deep", __name__.rpartition(".")[2]]
