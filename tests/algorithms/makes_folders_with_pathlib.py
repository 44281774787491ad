"""Makes a folder and a link with pathlib, which has os.mkdir as an attribute of a class up to Python 3.10."""

import os
import pathlib
import pickle
import tempfile


class Maker:
    mkdir = os.mkdir


def start(args, api):
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder, "one", "two")
        made.mkdir(parents=True, exist_ok=True)
        pathlib.Path(folder, "link").symlink_to(made)
        Maker().mkdir(os.path.join(folder, "three"))
        return sorted(os.listdir(folder)) + [pickle.loads(pickle.dumps(os.mkdir)) is os.mkdir]
