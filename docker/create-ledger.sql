-- Run by psql when the database is made. The ledger's user cannot open Airflow's database.
\getenv password WAVELIFT_LEDGER_PASSWORD
CREATE USER wavelift PASSWORD :'password';
CREATE DATABASE wavelift OWNER wavelift;
REVOKE CONNECT ON DATABASE airflow, postgres FROM PUBLIC;
REVOKE CONNECT ON DATABASE wavelift FROM PUBLIC;
