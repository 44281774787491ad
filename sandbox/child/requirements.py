"""Which requirement of the code a missing module belongs to: for the sentence that says how to install it.

Runs in the child, on Python 3.8 and newer.
"""

from __future__ import annotations

import os
import re
from typing import Iterable, List, Optional

#: Modules whose distribution has another name, and is asked for often.
_DISTRIBUTIONS = {
    "attr": ("attrs",),
    "Bio": ("biopython",),
    "bs4": ("beautifulsoup4",),
    "bson": ("pymongo",),
    "community": ("python-louvain",),
    "Crypto": ("pycryptodome",),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    "dateutil": ("python-dateutil",),
    "dns": ("dnspython",),
    "docx": ("python-docx",),
    "dotenv": ("python-dotenv",),
    "faiss": ("faiss-cpu", "faiss-gpu"),
    "fitz": ("pymupdf",),
    "git": ("gitpython",),
    "google": ("protobuf",),
    "grpc": ("grpcio",),
    "hydra": ("hydra-core",),
    "imblearn": ("imbalanced-learn",),
    "jwt": ("pyjwt",),
    "kafka": ("kafka-python",),
    "magic": ("python-magic",),
    "mpl_toolkits": ("matplotlib",),
    "mysql": ("mysql-connector-python",),
    "MySQLdb": ("mysqlclient",),
    "nacl": ("pynacl",),
    "open_clip": ("open-clip-torch",),
    "OpenSSL": ("pyopenssl",),
    "osgeo": ("gdal",),
    "PIL": ("pillow",),
    "pkg_resources": ("setuptools",),
    "pptx": ("python-pptx",),
    "psycopg2": ("psycopg2-binary",),
    "pylab": ("matplotlib",),
    "serial": ("pyserial",),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
    "skopt": ("scikit-optimize",),
    "slugify": ("python-slugify",),
    "tensorboardX": ("tensorboardx",),
    "tensorflow": ("tensorflow-cpu", "tensorflow-gpu"),
    "umap": ("umap-learn",),
    "whisper": ("openai-whisper",),
    "yaml": ("pyyaml",),
    "zmq": ("pyzmq",),
}
_SIZE_MAX = 1024 * 1024


def hint(module: Optional[str], folder: str, python: str, entry: str = "") -> str:
    """Return what to add to the error about this missing module, of the code in this folder and file."""
    if not module:
        return ""
    known = _DISTRIBUTIONS.get(module.partition(".")[0])
    it = known[0] if known else "it"
    inline = _block(_read(entry)) if entry else ""
    if inline:
        name = _listed(module, _dependencies(inline))
        if name is None:
            return f"; the inline metadata does not list it: add {it}, and give --install"
        return f"; the inline metadata lists {name}: give --install"
    if os.path.exists(os.path.join(folder, "requirements.txt")):
        name = _listed(module, _read(os.path.join(folder, "requirements.txt")))
        if name is None:
            return f"; requirements.txt beside it does not list it: add {it}, and give --install"
        command = install_command(folder, python)
        return f"; requirements.txt beside it lists {name}: give --install, or install it: {command}"
    project = _read(os.path.join(folder, "pyproject.toml"))
    listed = _dependencies(project) or _of_poetry(project)
    name = _listed(module, listed)
    if name is not None:
        return f"; pyproject.toml beside it lists {name}: give --install"
    if "." in module:
        return ""  # the package itself is there, and has no such module
    if listed:  # beside a requirements.txt, pyproject.toml would not be read
        return f"; pyproject.toml beside it does not list it: add {it}, and give --install"
    package = f"{it}, which has it," if known else "its package"
    return f"; list {package} in requirements.txt, and give --install"


def _read(file: str) -> str:
    try:
        with open(file, "rb") as stream:
            data = stream.read(_SIZE_MAX)
    except OSError:
        return ""
    # PowerShell writes lists in UTF-16.
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")


def _block(text: str) -> str:
    """Return the content of the inline metadata (PEP 723), "" where there is none."""
    found = re.search(r"(?m)^# /// script$\s((?:^#(?:| .*)$\s)+)^# ///$", text)
    return re.sub(r"(?m)^# ?", "", found.group(1)) if found else ""


def _dependencies(toml: str) -> str:
    """Return the strings in the first list `dependencies`, one a line."""
    found = re.search(r"(?m)^\s*dependencies\s*=\s*\[", toml)
    names = []
    while found:
        found = re.compile(r"(?:\s|,|#.*)*(?:\"([^\"\n]*)\"|'([^'\n]*)')").match(toml, found.end())
        if found:
            names.append(found.group(1) or found.group(2) or "")
    return "\n".join(names)


def _of_poetry(toml: str) -> str:
    """Return the names in Poetry's table of dependencies, one a line."""
    found = re.search(r"(?ms)^\[tool\.poetry\.dependencies\]\s*$(.*?)(?=^\[|\Z)", toml)
    names = re.findall(r"(?m)^[\"']?([\w.-]+)[\"']?\s*=", found.group(1)) if found else []
    names += re.findall(r"(?m)^\[tool\.poetry\.dependencies\.[\"']?([\w.-]+)[\"']?\]", toml)
    return "\n".join(name for name in names if name != "python")


def unconditional_names(lines: Iterable[str]) -> List[str]:
    """Return the distributions of these requirements, without those that depend on a marker."""
    return _names("\n".join(line for line in lines if ";" not in line.partition("#")[0]))


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
