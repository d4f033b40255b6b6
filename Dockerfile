# syntax=docker/dockerfile:1
# The server:       docker build -t rt4ksr .
# The plan builder: docker build -t rt4ksr-builder --target builder .
# A live stream:    docker build -t rt4ksr-live --target live .
ARG TRITON_VERSION=26.11

FROM nvcr.io/nvidia/tritonserver:${TRITON_VERSION}-py3 AS tritonserver


# This project, for the two images below.
FROM tritonserver AS wheel

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY export export
COPY loadtest loadtest
COPY server server
COPY model_repository model_repository
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .


# Has Python, torch and the TensorRT of this very Triton release, so that its plans load there.
FROM tritonserver AS builder

# TRT_VERSION is set by NVIDIA's image; the rest has its versions in pyproject.toml.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python3 -m pip install --no-cache-dir --break-system-packages \
    "$(echo /wheels/*.whl)[export]" "tensorrt-cu13==${TRT_VERSION%%+*}"
# For whoever it is run as: `--user "$(id -u)"` makes the plans yours.
ENV HOME=/tmp
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["rt4ksr", "export"]


# A client that upscales a live stream, beside the server: FFmpeg is in PyAV's wheel.
FROM python:3.12-slim AS live

# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python3 -m pip install --no-cache-dir "$(echo /wheels/*.whl)[live]"
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["rt4ksr", "live"]


FROM tritonserver AS server

# The stages of the image endpoint are Python models: the client's own picture code, with Pillow.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python3 -m pip install --no-cache-dir --break-system-packages /wheels/*.whl
# Of NVIDIA's backends only those that can be asked for by this project's models.
RUN find /opt/tritonserver/backends -mindepth 1 -maxdepth 1 \
        ! -name onnxruntime ! -name tensorrt ! -name python -exec rm -r {} + \
    && install -d -o 1000 -g 1000 /var/cache/rt4ksr
COPY --chmod=555 deploy/container/entrypoint.sh /usr/local/bin/entrypoint.sh
# Owned by root: who takes over the server still cannot change what it serves.
COPY --chmod=555 model_repository /models
# Releases that know this are newer than the one in the wheel, which rejects it.
RUN --mount=type=bind,source=deploy/container/histogram.pbtxt,target=/histogram.pbtxt \
    find /models -name '*.pbtxt' -exec sh -c 'cat /histogram.pbtxt >> "$1"' sh {} \;
# The only places written to are /tmp, /dev/shm and the engine cache.
ENV CUDA_CACHE_PATH=/var/cache/rt4ksr/cuda
# Keep the memory of one frame for the next; give back that of larger ones.
ENV GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=536870912
VOLUME /var/cache/rt4ksr
# NVIDIA's image makes this user, triton-server; as a number Kubernetes can tell that it is not root.
USER 1000:1000
WORKDIR /tmp
# HTTP listens inside the container only.
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
# A first start may build TensorRT engines, which takes minutes.
HEALTHCHECK --start-period=15m --interval=10s --timeout=5s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8000/v2/health/ready"]
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
