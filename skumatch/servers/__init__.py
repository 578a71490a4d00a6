"""Airflow and MLflow on one machine: started, asked, followed and stopped."""
