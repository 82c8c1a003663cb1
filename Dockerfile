# One image for every process: `docker run stream-app worker`. Built in two stages, so that neither pip's cache nor a
# package installer of ours is in it. 3.11 is the Python that the tests run on. requirements.txt has the extra `msk`, too:
# whoever runs the image cannot install it.
ARG BASE=python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7

FROM ${BASE} AS build
WORKDIR /src
COPY requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/stream-app \
    && pip --python /opt/stream-app/bin/python install --disable-pip-version-check --require-hashes -r requirements.txt
# The tools that build our wheel have hashes, too, and stay in this stage. They have an environment of their own, because
# a Python of Debian, as another BASE may have it, takes no packages of pip's.
COPY .ci/build.txt .ci/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/build \
    && pip --python /opt/build/bin/python install --disable-pip-version-check --require-hashes -r .ci/build.txt
COPY pyproject.toml README.md ./
COPY stream_app stream_app
RUN pip --python /opt/build/bin/python wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /dist . \
    && pip --python /opt/stream-app/bin/python install --disable-pip-version-check --no-deps /dist/*.whl

FROM ${BASE}
RUN groupadd --gid 10001 app \
    && useradd --uid 10001 --gid app --no-create-home --shell /usr/sbin/nologin app \
    && install --directory --owner=app --group=app /var/lib/stream-app
COPY --from=build /opt/stream-app /opt/stream-app
ENV PATH=/opt/stream-app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/var/lib
# The state folder, where volumes are mounted. Faust makes a directory where it is started.
WORKDIR /var/lib/stream-app
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
# worker, replay, gateway and its metrics, trace, board and its metrics, the simulator and its control
EXPOSE 9101 9102 9103 9104 9105 9107 9108 8700 8701
ENTRYPOINT ["stream-app"]
CMD ["--help"]
