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


def test_the_validation_notices_a_wrong_field() -> None:
    config = yaml.safe_load(CLUSTER.read_text())
    config["available_node_types"]["decoder"]["instance"] = "c7i"
    with pytest.raises(Exception, match="instance"):
        _validate(config)
