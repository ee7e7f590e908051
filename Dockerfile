# One image, two entry points:  docker build --target service .   docker build --target worker .
FROM python:3.11-slim AS installed
WORKDIR /opt/hintwise
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
COPY constraints.txt ./
# Where packages come from is pip's to know: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS as build arguments, for
# one that offers a CPU build of torch, say.
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
# torch first and alone: it is by far the largest layer and changes least.
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY hintwise hintwise
COPY service service
COPY worker worker
RUN /opt/venv/bin/pip install --constraint constraints.txt '.[gguf,lora,service,worker]'

FROM python:3.11-slim AS runtime
# The root file system may be read-only: what is written goes to /tmp, or to a volume below /var/lib/hintwise.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib HF_HOME=/var/lib/hintwise/models
# A new volume takes over the owner of the directory it is mounted on.
RUN useradd --create-home --uid 10001 hintwise \
    && install -d -o hintwise -g hintwise -m 0700 /run/hintwise \
    && install -d -o hintwise -g hintwise /var/lib/hintwise/weights /var/lib/hintwise/runs /var/lib/hintwise/models
COPY --from=installed /opt/venv /opt/venv
USER hintwise
WORKDIR /var/lib/hintwise

# Without access tokens (HINTWISE_TOKENS_FILE) the service listens on loopback only; see docs/access.md.
FROM runtime AS service
EXPOSE 8000
ENTRYPOINT ["python", "-m", "service"]
CMD ["--port", "8000", "--log-format", "json"]

FROM runtime AS worker
ENTRYPOINT ["python", "-m", "worker"]
CMD ["train", "--env-id", "CartPole-v1"]
