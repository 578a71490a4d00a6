"""The checks of `skumatch doctor`, ordered so that each part comes after the parts that it depends on."""

from __future__ import annotations

from skumatch.doctor import hardware, installation, queues, servers, serving, storage
from skumatch.doctor.finding import LONGER, Check

START = "Start it (`skumatch up`), or correct its address"
CHECKS = (
    Check("packages", installation.packages, installation.ELSEWHERE),
    Check("parameters", installation.parameters, "Correct params.yaml."),
    Check("pipeline", installation.pipeline, installation.ELSEWHERE),
    Check("code", installation.code, installation.ELSEWHERE),
    Check("secrets", installation.secrets, "Close them to others by hand."),
    Check("signing key", installation.signing_key, "Correct SKUMATCH_SIGNING_KEY."),
    Check("disk", hardware.disk, "See whether its disk is mounted and answers."),
    Check("GPU", hardware.gpu, "Install PyTorch again; see what `nvidia-smi` says.", seconds=LONGER),
    Check("proxy", servers.proxy, "Correct the proxy variables."),
    Check(
        "DVC remote",
        storage.remote,
        "See whether its host is up and reachable (SKUMATCH_REMOTE).",
        seconds=LONGER,
    ),
    Check("data", storage.data, "See what `dvc status --cloud` says.", after="DVC remote", seconds=LONGER),
    Check("MLflow", servers.mlflow, f"{START} (SKUMATCH_MLFLOW).", seconds=LONGER),
    Check("artifacts", servers.artifacts, "See MLflow's log.", after="MLflow", seconds=LONGER),
    Check("champion", servers.champion, "See MLflow's log.", after="MLflow", seconds=LONGER),
    Check("products", serving.products, "See MLflow's log.", after="MLflow", seconds=LONGER),
    Check("Airflow", servers.airflow, f"{START} (SKUMATCH_AIRFLOW)."),
    Check("DAGs", servers.dags, "See the DAG processor's log.", after="Airflow"),
    Check("clocks", servers.clocks, "Compare them by hand."),
    Check("broker", queues.broker, f"Start it, or check {queues.BROKER}."),
    Check("workers", queues.workers, "See the workers' logs.", after="broker"),
)
