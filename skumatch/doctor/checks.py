"""The checks of `skumatch doctor`, ordered so that each part comes after the parts that it depends on."""

from __future__ import annotations

from skumatch.doctor import hardware, installation, queues, servers, serving, storage
from skumatch.doctor.finding import LONGER, PartCheck

START = "Start it (`skumatch up`), or correct its address"
CHECKS = (
    PartCheck("packages", installation.packages, installation.ELSEWHERE),
    PartCheck("parameters", installation.parameters, "Correct params.yaml."),
    PartCheck("pipeline", installation.pipeline, installation.ELSEWHERE),
    PartCheck("code", installation.code, installation.ELSEWHERE),
    PartCheck("secrets", installation.secrets, "Close them to others by hand."),
    PartCheck("signing key", installation.signing_key, "Correct SKUMATCH_SIGNING_KEY."),
    PartCheck("disk", hardware.disk, "See whether its disk is mounted and answers."),
    PartCheck("GPU", hardware.gpu, "Install PyTorch again; see what `nvidia-smi` says.", seconds=LONGER),
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
    PartCheck("broker", queues.broker, f"Start it, or check {queues.BROKER}."),
    PartCheck("workers", queues.workers, "See the workers' logs.", after="broker"),
)
