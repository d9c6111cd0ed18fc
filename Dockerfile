# The daemon and its commands in one image: `docker run IMAGE` runs the daemon, `docker run IMAGE --help` tells
# the rest. Settings come as TAKHIN_... variables, or in a file mounted at /etc/takhin/takhin.yaml.

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY takhin_tiered ./takhin_tiered
# The versions that the tests ran with: an image that is built again next year has the same.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11-slim
# The broker's user, by number: restored segments belong to it, and the data directory is writable to it.
ARG TAKHIN_UID=1000
ARG TAKHIN_GID=1000
RUN groupadd --gid "${TAKHIN_GID}" takhin \
    && useradd --uid "${TAKHIN_UID}" --gid "${TAKHIN_GID}" --no-log-init --no-create-home \
        --home-dir /var/lib/takhin-tiered --shell /usr/sbin/nologin takhin \
    && install -d -o takhin -g takhin -m 0750 /var/lib/takhin-tiered \
    && install -d -o takhin -g takhin -m 0755 /var/lib/takhin /var/lib/takhin/data
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER ${TAKHIN_UID}:${TAKHIN_GID}
WORKDIR /var/lib/takhin-tiered
# Published only where TAKHIN_STORAGE_TIERED_API_HOST is 0.0.0.0, which needs a token.
EXPOSE 8080
STOPSIGNAL SIGTERM
# Alive, not ready: a store that is down is no reason to restart the daemon. A port that a file sets, rather than
# TAKHIN_STORAGE_TIERED_API_PORT, is not known here.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as r; e = os.environ.get; r.urlopen(('https' if e('TAKHIN_STORAGE_TIERED_API_TLS_CERT') else 'http') + '://127.0.0.1:' + (e('TAKHIN_STORAGE_TIERED_API_PORT') or '8080') + '/healthz', timeout=4, context=ssl._create_unverified_context())"]
ENTRYPOINT ["takhin-tiered"]
CMD ["run"]
