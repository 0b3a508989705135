CREATE DATABASE wavelift OWNER airflow;
