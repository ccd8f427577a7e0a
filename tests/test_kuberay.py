"""The files of deploy/: fields that KubeRay knows, groups that Ray's autoscaler reads, commands that our command line takes."""

import copy
import json
import shlex
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml

from api.cli import app

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "deploy").glob("*.yaml"))
SCHEMA = json.loads((ROOT / "tests/data/kuberay_fields.json").read_text())


def _read(name: str) -> dict:
    return yaml.safe_load((ROOT / "deploy" / name).read_text())


def _cluster(document: dict) -> dict:
    return document["spec"].get("rayClusterSpec", document["spec"])


def _scaled(document: dict) -> dict:
    """What Ray's own autoscaler makes of a cluster; it checks that against its schema."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    metadata = {"name": document["metadata"]["name"], "namespace": "default"}
    return _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": _cluster(document)})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_field_is_one_that_kuberay_knows(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(_read(path.name), SCHEMA)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec["workerGroupSpecs"][0].pop("minReplicas"), "minReplicas"),
        (lambda spec: spec["workerGroupSpecs"][0].update(maxReplica=3), "maxReplica"),
        (lambda spec: spec["headGroupSpec"].pop("template"), "template"),
        (lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "0"),
        (lambda spec: spec["authOptions"].update(mode="tokens"), "tokens"),
        (lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].pop("image"), "image"),
        (
            lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"]["volumes"][0].pop("persistentVolumeClaim"),
            "work",
        ),
    ],
)
def test_a_wrong_field_is_noticed(change, said: str) -> None:
    document = copy.deepcopy(_read("ray_cluster.kuberay.yaml"))
    change(document["spec"])
    [error] = jsonschema.Draft202012Validator(SCHEMA).iter_errors(document)
    told = [part.message for part in error.context if part.absolute_schema_path[0] == "oneOf"] + [error.message]
    assert any(said in message for message in told), told


def test_ray_reads_the_groups_and_their_resources() -> None:
    scaled = _scaled(_read("ray_cluster.kuberay.yaml"))["available_node_types"]
    assert scaled["headgroup"]["resources"]["CPU"] == 0
    decoder, trainer = scaled["decoder"], scaled["trainer"]
    assert (decoder["min_workers"], decoder["max_workers"]) == (0, 16)
    assert (trainer["min_workers"], trainer["max_workers"]) == (0, 8)
    assert (
        decoder["resources"]["CPU"] == 62
        and decoder["resources"]["decoder"] == 62
        and "GPU" not in decoder["resources"]
    )
    assert trainer["resources"]["GPU"] == 8 and trainer["resources"]["trainer"] == 8


def test_jobs_bring_the_pods_they_need() -> None:
    curate, train = (_scaled(_read(f"ray_job.{name}.yaml"))["available_node_types"] for name in ("curate", "train"))
    assert curate.keys() == {"headgroup", "decoder"} and curate["decoder"]["max_workers"] > 0
    assert train.keys() == {"headgroup", "trainer"}, "a run divides all CPUs of the cluster among its workers"
    assert train["trainer"]["min_workers"] == train["trainer"]["max_workers"], (
        "a run counts the GPUs there are when it starts"
    )
    words = shlex.split(_read("ray_job.train.yaml")["spec"]["entrypoint"])
    gpus = train["trainer"]["min_workers"] * train["trainer"]["resources"]["GPU"]
    assert int(words[words.index("--workers") + 1]) == gpus and "--resume" in words


@pytest.mark.parametrize("name", ["ray_job.curate.yaml", "ray_job.train.yaml"])
def test_entrypoints_are_calls_that_the_command_line_takes(name: str) -> None:
    program, *words = shlex.split(_read(name)["spec"]["entrypoint"])
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.make_context("cinemill", words)  # parses, runs nothing; a wrong word raises
    assert program == "cinemill" and context.params["address"] == "auto"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_clusters_ask_for_a_token_and_stay_inside(path: Path) -> None:
    cluster = _cluster(_read(path.name))
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["rayVersion"] == version("ray")
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == volumes


def test_the_dockerfile_copies_what_there_is() -> None:
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert sources and all((ROOT / source).exists() for source in sources)
    assert {"models", "curation", "training", "api"} <= set(sources)
