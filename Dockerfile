# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
WORKDIR /build
RUN python3 -m venv --without-pip /opt/venv
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/venv/bin/python --disable-pip-version-check install \
        --no-deps --only-binary=:all: --require-hashes --requirement requirements.lock \
    && python3 -m pip --python /opt/venv/bin/python check
# The same layout as in the wheel: the package with its data files inside.
COPY worker /app/worker
COPY sql /app/worker/_data/sql
COPY workflows /app/worker/_data/workflows
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

FROM python:3.11-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="talking-head-worker" \
      org.opencontainers.image.description="Turns rows of a Supabase table into talking-head videos rendered on RunPod." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/venv/bin:$PATH \
    ENV_FILE=none \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('PORT', '8080') + '/livez', timeout=4)"]
ENTRYPOINT ["python", "-m", "worker"]
CMD ["run"]
