"""Which line of requirements.txt a missing module belongs to: for the sentence that says how to install it.

Runs in the child, on Python 3.8 and newer.
"""

from __future__ import annotations

import os
import re
from typing import List, Optional

#: Modules whose distribution has another name, and is asked for often.
_DISTRIBUTIONS = {
    "attr": ("attrs",),
    "bs4": ("beautifulsoup4",),
    "bson": ("pymongo",),
    "Crypto": ("pycryptodome",),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    "dateutil": ("python-dateutil",),
    "dotenv": ("python-dotenv",),
    "faiss": ("faiss-cpu", "faiss-gpu"),
    "fitz": ("pymupdf",),
    "git": ("gitpython",),
    "google": ("protobuf",),
    "jwt": ("pyjwt",),
    "magic": ("python-magic",),
    "mpl_toolkits": ("matplotlib",),
    "MySQLdb": ("mysqlclient",),
    "osgeo": ("gdal",),
    "PIL": ("pillow",),
    "pkg_resources": ("setuptools",),
    "psycopg2": ("psycopg2-binary",),
    "pylab": ("matplotlib",),
    "serial": ("pyserial",),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
    "tensorflow": ("tensorflow-cpu", "tensorflow-gpu"),
    "tensorboardX": ("tensorboardx",),
    "umap": ("umap-learn",),
    "yaml": ("pyyaml",),
    "zmq": ("pyzmq",),
}
_SIZE_MAX = 1024 * 1024


def hint(module: Optional[str], folder: str, python: str) -> str:
    """Return what to add to the error about this missing module; "" where there are no requirements."""
    file = os.path.join(folder, "requirements.txt")
    try:
        with open(file, encoding="utf-8", errors="replace") as stream:
            text = stream.read(_SIZE_MAX)
    except OSError:
        return ""
    if not module:
        return ""
    name = _listed(module, text)
    if name is None:
        return "; requirements.txt beside it does not list it"
    return f"; requirements.txt beside it lists {name}; install it: {install_command(folder, python)}"


def unconditional_names(folder: str) -> List[str]:
    """Return the distributions in requirements.txt, without those that depend on a marker."""
    try:
        with open(os.path.join(folder, "requirements.txt"), encoding="utf-8", errors="replace") as stream:
            text = stream.read(_SIZE_MAX)
    except OSError:
        return []
    return _names("\n".join(line for line in text.splitlines() if ";" not in line.partition("#")[0]))


def install_command(folder: str, python: str) -> str:
    """Return the command that installs what requirements.txt lists."""
    words = (python, "-m", "pip", "install", "-r", os.path.join(folder, "requirements.txt"))
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    return word if re.match(r"[\w@%+=:,./-]+\Z", word) else "'" + word.replace("'", "'\\''") + "'"


def _listed(module: str, text: str) -> Optional[str]:
    top = module.partition(".")[0]
    plain = _normal(top)
    wanted = {plain, f"python-{plain}", f"py{plain}", f"{plain}-python", _normal(module)}
    wanted.update(_DISTRIBUTIONS.get(top, ()))
    for name in _names(text):
        normal = _normal(name)
        # google.cloud is a folder of many distributions: google-cloud-storage.
        if normal in wanted or ("." in module and normal.startswith(_normal(module) + "-")):
            return name
    return None


def _names(text: str) -> List[str]:
    names = []
    for line in text.splitlines():
        egg = re.search(r"#egg=([\w.-]+)", line)
        found = egg or re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:$|[\[<>=!~;@#( ])", line)
        if found:
            names.append(found.group(1))
    return names


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
