# One image for all Airflow components and workers. Build: docker build -t wavelift .
FROM python:3.11-slim-bookworm

ARG AIRFLOW_UID=50000
RUN useradd --uid ${AIRFLOW_UID} --gid 0 --create-home --home-dir /opt/airflow airflow

WORKDIR /opt/wavelift
COPY requirements.lock pyproject.toml README.md LICENSE ./
# With bytecode: without it every task pays 4 CPU-seconds for its imports.
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --compile-bytecode --require-hashes -r requirements.lock
COPY operators operators
COPY sensors sensors
COPY src src
COPY dags dags
RUN uv pip install --system --no-cache --compile-bytecode --no-deps .

ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/dags
COPY --chown=50000:0 dags /opt/airflow/dags
USER ${AIRFLOW_UID}:0
WORKDIR /opt/airflow
ENTRYPOINT ["airflow"]
CMD ["version"]
