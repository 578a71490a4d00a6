#!/bin/sh
# Run by Postgres when it is new: a role for Airflow and one for MLflow, and their databases.
set -eu
secrets=${SECRETS:-/run/secrets}
role() {  # its name, its password
  psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --quiet --set ON_ERROR_STOP=1 <<SQL
CREATE ROLE $1 LOGIN PASSWORD '$2';
SQL
}
role airflow "$(cat "$secrets/airflow_db")"
role mlflow "$(cat "$secrets/mlflow_db")"
for database in airflow mlflow mlflow_auth; do
  createdb --username "${POSTGRES_USER:-postgres}" --owner "${database%_auth}" "$database"
done
