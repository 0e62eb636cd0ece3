"""The dashboard of the cluster that the environment names."""

from __future__ import annotations

from cluster.errors import ClusterError


def dashboard_url() -> str:
    """Return the dashboard's URL, as Ray finds it by RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    ClusterError if the environment names no cluster that answers.
    """
    from ray.dashboard.utils import get_address_for_submission_client  # Ray takes a second

    try:
        return str(get_address_for_submission_client(None))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"the cluster of RAY_ADDRESS is unavailable: {error}") from error
