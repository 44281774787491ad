# A base image for algorithms in HKube, with hkrunner instead of HKube's wrapper and with HKube's folders.
#
#     docker build --build-arg PYTHON_IMAGE=python:3.12-slim --tag hkrunner-algorithm:3.12 .
#
# docs/how-to/cluster.md says how to build an algorithm's image from it, and what changes for operators.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
COPY LICENSE README.md __init__.py __main__.py py.typed pyproject.toml setup.cfg ./
COPY boards boards
COPY runner runner
COPY sandbox sandbox
# In a virtual environment, so that the packages of hkrunner and of the algorithm do not conflict.
RUN python -m venv /opt/hkrunner \
    && /opt/hkrunner/bin/pip install --no-cache-dir '.[peers,s3,stream]'

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/hkrunner /opt/hkrunner
COPY runner/image/algorithm-entrypoint /usr/local/bin/
# The algorithm's own Python decodes the worker's messages, and needs these packages for bson and msgpack.
RUN pip install --no-cache-dir 'pymongo>=4.9.1' 'msgspec>=0.19' \
    && ln -s /opt/hkrunner/bin/hkrunner /usr/local/bin/hkrunner \
    && useradd --uid 10001 --user-group --create-home algorithm \
    && mkdir -p /hkube/algorithm-runner/algorithm_unique_folder \
    && touch /hkube/algorithm-runner/algorithm_unique_folder/__init__.py
# The algorithm runs in the image's Python.
ENV HKRUNNER_PYTHON=python
WORKDIR /hkube/algorithm-runner
USER algorithm
ENTRYPOINT ["/usr/local/bin/algorithm-entrypoint"]
