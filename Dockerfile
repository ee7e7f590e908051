# One image, two entry points:  docker build --target service .   docker build --target worker .
FROM python:3.11-slim AS installed
WORKDIR /opt/hintwise
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
COPY constraints.txt ./
# torch first and alone: it is by far the largest layer and changes least.
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY hintwise hintwise
COPY service service
COPY worker worker
RUN /opt/venv/bin/pip install --constraint constraints.txt '.[service,worker]'

FROM python:3.11-slim AS runtime
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 hintwise
COPY --from=installed /opt/venv /opt/venv
USER hintwise
WORKDIR /home/hintwise

# Without access tokens the service listens on loopback only: run it with the caller's network (--network host).
FROM runtime AS service
ENTRYPOINT ["python", "-m", "service"]
CMD ["--port", "8000", "--log-format", "json"]

FROM runtime AS worker
ENTRYPOINT ["python", "-m", "worker"]
CMD ["train", "--env-id", "CartPole-v1"]
