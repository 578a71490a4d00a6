"""The checks of `skumatch doctor`, ordered so that each part comes after the parts that it depends on."""

from __future__ import annotations

from skumatch.doctor import machine, servers, serving, storage
from skumatch.doctor.finding import LONGER, PartCheck

START = "Start it (`skumatch up`), or correct its address"
CHECKS = (
    PartCheck("packages", machine.packages, machine.ELSEWHERE),
    PartCheck("parameters", machine.parameters, "Correct params.yaml."),
    PartCheck("pipeline", machine.pipeline, machine.ELSEWHERE),
    PartCheck("code", machine.code, machine.ELSEWHERE),
    PartCheck("secrets", machine.secrets, "Close them to others by hand."),
    PartCheck("signing key", machine.signing_key, "Correct SKUMATCH_SIGNING_KEY."),
    PartCheck("disk", machine.disk, "See whether its disk is mounted and answers."),
    PartCheck("GPU", machine.gpu, "Install PyTorch again; see what `nvidia-smi` says.", seconds=LONGER),
    PartCheck("proxy", servers.proxy, "Correct the proxy variables."),
    PartCheck(
        "DVC remote",
        storage.remote,
        "See whether its host is up and reachable (SKUMATCH_REMOTE).",
        seconds=LONGER,
    ),
    PartCheck(
        "data", storage.data, "See what `dvc status --cloud` says.", after="DVC remote", seconds=LONGER
    ),
    PartCheck("MLflow", servers.mlflow, f"{START} (SKUMATCH_MLFLOW).", seconds=LONGER),
    PartCheck("artifacts", servers.artifacts, "See MLflow's log.", after="MLflow", seconds=LONGER),
    PartCheck("champion", servers.champion, "See MLflow's log.", after="MLflow", seconds=LONGER),
    PartCheck("products", serving.products, "See MLflow's log.", after="MLflow", seconds=LONGER),
    PartCheck("Airflow", servers.airflow, f"{START} (SKUMATCH_AIRFLOW)."),
    PartCheck("DAGs", servers.dags, "See the DAG processor's log.", after="Airflow"),
    PartCheck("clocks", servers.clocks, "Compare them by hand."),
    PartCheck("broker", servers.broker, f"Start it, or check {servers.BROKER}."),
    PartCheck("workers", servers.workers, "See the workers' logs.", after="broker"),
)
