"""ray_cluster.yaml is what `ray up` accepts."""

from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parent.parent / "ray_cluster.yaml"


def _validate(config: dict) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_the_cluster_file_passes_rays_own_validation() -> None:
    config = yaml.safe_load(CLUSTER.read_text())
    _validate(config)
    assert set(config["available_node_types"]) == {"head", "decoder", "trainer"}


def test_groups_can_grow_and_every_start_asks_for_the_token() -> None:
    config = yaml.safe_load(CLUSTER.read_text())
    for name in ("decoder", "trainer"):
        group = config["available_node_types"][name]
        assert 0 <= group["min_workers"] < group["max_workers"] <= config["max_workers"]
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all(line == "ray stop" or line.startswith("RAY_AUTH_MODE=token ray start ") for line in starts)
    assert "/home/ubuntu/.ray/auth_token" in config["file_mounts"]
    assert any("RAY_AUTH_MODE=token" in line for line in config["setup_commands"]), "for drivers that are run by hand"


def test_the_validation_notices_a_wrong_field() -> None:
    config = yaml.safe_load(CLUSTER.read_text())
    config["available_node_types"]["decoder"]["instance"] = "c7i"
    with pytest.raises(Exception, match="instance"):
        _validate(config)
