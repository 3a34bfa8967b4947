# The server with the models that ship, on CPU:
#   docker build -t convscope .
#   docker run --rm --stop-timeout 40 -p 8001:8001 -p 8002:8002 convscope
# Calls in flight may take 32 s after SIGTERM; without --stop-timeout Docker kills after 10.
# For an NVIDIA GPU (CUDA and cuDNN come as Python packages, the driver from the host):
#   docker build --build-arg EXTRA=gpu -t convscope:gpu .
#   docker run --rm --gpus all -p 8001:8001 -p 8002:8002 -e CONVSCOPE_DEVICE=cuda convscope:gpu
# Your own models: -v ./models:/models:ro -e CONVSCOPE_MODELS=/models

ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# server (CPU) or gpu; see pyproject.toml.
ARG EXTRA=server
WORKDIR /src
# Constrains hatchling too: pip before 25.3 by the first name, later by the second.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt
# No pip in it: it is copied into the image, where nothing is installed any more.
RUN python3 -m venv --without-pip /opt/convscope
# First what seldom changes: this layer is kept while only the sources change.
COPY constraints.txt pyproject.toml ./
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*p['dependencies'], *p['optional-dependencies']['${EXTRA}'], sep='\n')" \
    > requirements.txt \
 && python3 -m pip --python /opt/convscope/bin/python install --quiet -r requirements.txt
COPY README.md LICENSE ./
COPY proto proto
COPY server server
COPY export export
COPY clients clients
COPY models models
RUN python3 -m pip --python /opt/convscope/bin/python install --quiet --no-deps . \
 && python3 -m pip --python /opt/convscope/bin/python check

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 convscope \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin convscope
COPY --from=build /opt/convscope /opt/convscope
ENV PATH=/opt/convscope/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CONVSCOPE_HOST=0.0.0.0 \
    CONVSCOPE_METRICS_HOST=0.0.0.0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
EXPOSE 8001 8002
# SERVING, or the container is unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD convscope health --address "127.0.0.1:${CONVSCOPE_PORT:-8001}"
STOPSIGNAL SIGTERM
ENTRYPOINT ["convscope"]
CMD ["serve"]
