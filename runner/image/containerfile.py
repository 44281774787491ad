"""The Containerfile of an algorithm's image: a text, made without I/O.

What changes most rarely comes first, since an engine builds everything below a change again: the base,
hkrunner, the requirements, the variables, and last the code, one small layer. The contract with the pod is
that of HKube's own images: the folders, the variables, a process that connects to the worker by itself.
"""

from __future__ import annotations

import json
import os
import shlex
from typing import NamedTuple

#: Folder of hkrunner's virtual environment, so that its packages and the algorithm's do not conflict.
HOME = "/opt/hkrunner"
RUNNER = "/hkube/algorithm-runner"
CODE = f"{RUNNER}/algorithm_unique_folder"
ENTRYPOINT = "/usr/local/bin/algorithm-entrypoint"
#: A number, because Kubernetes checks `runAsNonRoot` by it; above those that distributions use.
USER = 10001
#: Packages with which the algorithm's Python decodes the worker's messages, bson and msgpack.
ENCODING_PACKAGES = ("pymongo>=4.9.1", "msgspec>=0.19")
#: Debian's Python refuses pip without the first; in an image there is no other owner of its packages.
_PIP = (
    "PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1"
    " PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install"
)
#: pip's options that a build may be given as arguments, beside those for proxies, which every engine knows.
_BUILD_ARGUMENTS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
#: The secret of a build that has a login for a package index. pip reads it; no layer keeps it.
PIP_CONF = "pip.conf"
_CHECK = (
    "import sys; "
    "sys.version_info >= (3, 10) or sys.exit('hkrunner needs Python 3.10 or newer in the base image, not '"
    " + sys.version.split()[0]); "
    "import ensurepip, pip, venv"
)

# Folders of the build context.
CONTEXT_HKRUNNER = "hkrunner"
CONTEXT_REQUIREMENTS = "requirements"
CONTEXT_CODE = "code"


class ImagePlan(NamedTuple):
    """What the image consists of."""

    name: str  #: the algorithm's name
    base: str
    version: str  #: of hkrunner
    wheel: str  #: the file's name in the folder hkrunner of the context
    entry: str  #: relative to the folder of the code: a file, file:function, or a dotted module
    #: The list of requirements, relative to the folder of requirements or of the code; None: there is none.
    requirements: str | None = None
    #: Whether the requirements name folders of the code, which must be there before they are installed.
    after_code: bool = False
    list_in_code: bool = False  #: whether the list itself is a file of the code
    variables: tuple[str, ...] = ()  #: that the requirements name, whose values are arguments of the build
    has_pip_conf: bool = False  #: whether the build gets the secret PIP_CONF


def containerfile(plan: ImagePlan) -> str:
    """Return the text of the Containerfile."""
    code = ["# The code: a change of it builds this layer only.", f"COPY {CONTEXT_CODE}/ {CODE}/"]
    if plan.after_code:
        code[0] = "# The code comes before its requirements, because they name folders of it."
    blocks = [_base(plan), _hkrunner(plan)]
    if plan.requirements is not None and not plan.after_code:
        blocks.append(_requirements(plan, plan.requirements))
    if plan.requirements is not None and plan.list_in_code:
        blocks.append([*code, *_install(plan, CODE, plan.requirements)])
    elif plan.requirements is not None and plan.after_code:
        blocks.append([*code, *_requirements(plan, plan.requirements)])
    blocks.append(_start(plan))
    if not plan.after_code:
        blocks.append(code)
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _base(plan: ImagePlan) -> list[str]:
    return [
        f"# The image of {plan.name}, made by hkrunner {plan.version}. What changes most rarely comes first.",
        f"FROM {plan.base}",
        "USER 0",
        *(f"ARG {name}=" for name in _BUILD_ARGUMENTS),
        f'RUN python3 -c "{_CHECK}"',
    ]


def _hkrunner(plan: ImagePlan) -> list[str]:
    packages = " ".join(f"'{one}'" for one in ENCODING_PACKAGES)
    wheel = f"{HOME}-install/{plan.wheel}"
    return [
        "# hkrunner, in a virtual environment of its own.",
        f"COPY {CONTEXT_HKRUNNER}/ {HOME}-install/",
        f"RUN {_mount(plan)}python3 -m venv {HOME} \\",
        f"    && {HOME}/bin/python -m pip install --no-cache-dir --disable-pip-version-check \\",
        f"        '{wheel}[peers,s3,stream]' \\",
        f"    && ln -s {HOME}/bin/hkrunner /usr/local/bin/hkrunner \\",
        f"    && cp {HOME}-install/algorithm-entrypoint {ENTRYPOINT} \\",
        f"    && {_PIP} {packages} \\",
        f"    && mkdir -p {CODE} && touch {CODE}/__init__.py \\",
        f"    && echo 'algorithm:x:{USER}:{USER}::/tmp:/bin/sh' >> /etc/passwd \\",
        f"    && echo 'algorithm:x:{USER}:' >> /etc/group",
    ]


def _requirements(plan: ImagePlan, file: str) -> list[str]:
    folder = f"{HOME}-requirements"
    return [
        "# What the code requires, in the Python that runs it.",
        f"COPY {CONTEXT_REQUIREMENTS}/ {folder}/",
        *_install(plan, folder, file),
    ]


def _install(plan: ImagePlan, folder: str, file: str) -> list[str]:
    """Return what installs a list, in its own folder: relative paths in it begin there."""
    folder, name = os.path.split(os.path.join(folder, file))
    return [
        *(f"ARG {variable}=" for variable in plan.variables if variable not in _BUILD_ARGUMENTS),
        f"RUN {_mount(plan)}cd {shlex.quote(folder)} && {_PIP} -r {shlex.quote(name)}",
    ]


def _mount(plan: ImagePlan) -> str:
    return f"--mount=type=secret,id={PIP_CONF},target=/etc/pip.conf " if plan.has_pip_conf else ""


def _start(plan: ImagePlan) -> list[str]:
    return [
        "# An ordinary user whose home is the temporary folder: the root file system may be read-only.",
        f"ENV HKRUNNER_PYTHON=python3 HOME=/tmp ALGORITHM_ENTRY_POINT={_value(plan.entry)}",
        f"WORKDIR {RUNNER}",
        f"USER {USER}:{USER}",
        f"ENTRYPOINT {json.dumps([ENTRYPOINT])}",
        "CMD []",
    ]


def _value(text: str) -> str:
    """Return the text in quotes, within which the engines replace $VARIABLE, and know no \\u00e4."""
    for sign in ("\\", '"', "$"):
        text = text.replace(sign, f"\\{sign}")
    return f'"{text}"'
