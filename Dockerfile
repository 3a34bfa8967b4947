# The server with the models that ship, on CPU:
#   docker build -t convscope .
#   docker run --rm -p 8001:8001 -p 8002:8002 convscope
# For an NVIDIA GPU (CUDA and cuDNN come as Python packages, the driver from the host):
#   docker build --build-arg EXTRA=gpu -t convscope:gpu .
#   docker run --rm --gpus all -p 8001:8001 -p 8002:8002 -e CONVSCOPE_DEVICE=cuda convscope:gpu
# Your own models: -v ./models:/models:ro -e CONVSCOPE_MODELS=/models

ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# server (CPU) or gpu; see pyproject.toml.
ARG EXTRA=server
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/convscope
WORKDIR /src
# First what seldom changes: this layer is kept while only the sources change.
COPY constraints.txt ./
RUN /opt/convscope/bin/pip install --quiet -c constraints.txt numpy grpcio pillow rich onnx
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY server server
COPY export export
COPY clients clients
COPY models models
RUN /opt/convscope/bin/pip install --quiet -c constraints.txt ".[${EXTRA}]"

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin convscope
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
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["convscope", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["convscope"]
CMD ["serve"]
