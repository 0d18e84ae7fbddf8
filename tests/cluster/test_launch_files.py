"""Files that start clusters: each is what its reader expects, checked offline by that reader's own rules."""

import copy
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from enhance_ray import __version__, config
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.serve.settings import ServeConfig
from enhance_ray.cluster.train import ClusterTrainConfig

ROOT = Path(__file__).parents[2]
LAUNCHER = [ROOT / "cluster.yaml", ROOT / "configs" / "cluster-local.yaml"]
KUBERAY = sorted((ROOT / "configs" / "kuberay").glob("*.yaml"))
DASHBOARDS = sorted((ROOT / "configs" / "grafana").glob("*.json"))


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def by_name(path):
    return path.name


@pytest.mark.parametrize("path", LAUNCHER, ids=by_name)
def test_the_launcher_takes_the_file(path):
    validate_config(prepare_config(load(path)))
    wrong = load(path) | {"idle_timeout_minute": 3}
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config(wrong))


@pytest.mark.parametrize("path", LAUNCHER, ids=by_name)
def test_every_node_has_the_token_and_the_package(path):
    tree = load(path)
    assert tree["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    mounted = [source for source in tree["file_mounts"].values() if not source.startswith("~")]
    assert {"enhance_ray", "pyproject.toml", "constraints.txt"} < set(mounted)
    assert all((ROOT / source).exists() for source in mounted)
    for command in tree["setup_commands"]:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    assert any("RAY_AUTH_MODE=token" in command for command in tree["setup_commands"])
    assert any("-c constraints.txt" in command for command in tree["setup_commands"])


def test_aws_asks_for_spot_workers_of_several_kinds_and_an_idle_head():
    kinds = load(ROOT / "cluster.yaml")["available_node_types"]
    head = kinds.pop("head")
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    assert len({kind["node_config"]["InstanceType"] for kind in kinds.values()}) == len(kinds) >= 3
    assert sum("GPU" in kind["resources"] for kind in kinds.values()) >= 2
    for kind in kinds.values():
        node = kind["node_config"]
        assert node["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["IamInstanceProfile"] == head["node_config"]["IamInstanceProfile"]
        assert "KeyName" not in node


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_kuberay_takes_the_file(path):
    validate = pytest.importorskip("kubernetes_validate").validate
    tree = load(path)
    schema = json.loads((Path(__file__).parent / "kuberay_schema.json").read_text())
    jsonschema.validate(tree, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree | {"spec": tree["spec"] | {"entrypiont": "x"}}, schema)

    for template in templates(tree):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        validate(pod, "1.30", strict=True)
        for container in template["spec"]["containers"]:
            assert container["image"].endswith(f"enhance-ray:{__version__}")
            assert not any("SECRET" in each["name"] for each in container.get("env", []))
        wrong = copy.deepcopy(pod)
        wrong["spec"]["containers"][0]["imagee"] = "x"
        with pytest.raises(Exception, match="imagee"):
            validate(wrong, "1.30", strict=True)


def cluster_of(tree):
    return tree["spec"].get("rayClusterSpec") or tree["spec"]["rayClusterConfig"]


def templates(tree):
    cluster = cluster_of(tree)
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_kubernetes_scales_gpu_groups_and_leaves_the_head_alone(path):
    cluster = cluster_of(load(path))
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = cluster["workerGroupSpecs"]
    assert all(group["minReplicas"] < group["maxReplicas"] for group in groups)
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    assert any("nvidia.com/gpu" in limit for limit in limits)


def test_what_kubernetes_runs_is_what_the_jobs_take():
    for name, settings in (("bulk", BulkConfig), ("train", ClusterTrainConfig)):
        words = load(ROOT / "configs" / "kuberay" / f"rayjob-{name}.yaml")["spec"]["entrypoint"].split()
        assert words[0] == "python"
        assert (ROOT / words[1]).is_file()
        overrides = [following for word, following in itertools.pairwise(words) if word == "--set"]
        config.load(settings, ROOT / words[2], overrides)
    tree = yaml.safe_load(load(ROOT / "configs" / "kuberay" / "rayservice.yaml")["spec"]["serveConfigV2"])
    for deployed in (tree, load(ROOT / "configs" / "serve.yaml")):
        ServeDeploySchema.model_validate(deployed)
        for application in deployed["applications"]:
            config.from_tree(ServeConfig, application["args"], where="args")


@pytest.mark.parametrize("path", DASHBOARDS, ids=by_name)
def test_dashboards_ask_for_metrics_that_there_are(path):
    code = "".join(file.read_text() for file in (ROOT / "enhance_ray" / "cluster").rglob("*.py"))
    ray_dashboards = (
        Path(sys.modules["ray"].__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    )
    known = "".join(file.read_text() for file in ray_dashboards.glob("*_panels.py"))
    board = json.loads(path.read_text())
    assert len(board["panels"]) >= 10
    for panel in board["panels"]:
        for target in panel["targets"]:
            for name in re.findall(r"\bray_\w+", target["expr"]):
                own = re.fullmatch(r"ray_(enhance_ray_\w+?)(_total)?", name)
                assert (f'"{own[1]}"' in code) if own else (name in known), name


def test_the_image_is_linted():
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("there is no hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0
    assert re.search(r"^USER 1000$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


@pytest.fixture
def aws(monkeypatch):
    """A mock of EC2 and IAM on loopback, with the instance profile that the file names."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import boto3

    iam = boto3.client("iam")
    iam.create_instance_profile(InstanceProfileName="enhance-ray")
    iam.create_role(RoleName="enhance-ray", AssumeRolePolicyDocument="{}")
    iam.add_role_to_instance_profile(InstanceProfileName="enhance-ray", RoleName="enhance-ray")
    yield boto3.client("ec2")
    server.stop()


@pytest.mark.drill
def test_ray_up_asks_aws_for_what_the_file_says(aws, tmp_path):
    tree = load(ROOT / "cluster.yaml")
    image = aws.describe_images()["Images"][0]["ImageId"]
    for kind in tree["available_node_types"].values():
        kind["node_config"]["ImageId"] = image
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(tree))
    ray_program = Path(sys.executable).parent / "ray"
    environment = os.environ | {"HOME": str(tmp_path)}
    log = (tmp_path / "log").open("w")
    up = subprocess.Popen(
        [ray_program, "up", "-y", "--no-config-cache", file],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:  # it would wait for the head's sshd, of which there is none
        end = time.monotonic() + 60
        while not (head := instances(aws)):
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            assert up.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.5)
    finally:
        up.kill()
        up.wait()
        log.close()

    [head] = head
    assert head["InstanceType"] == "m6i.xlarge"
    assert "InstanceLifecycle" not in head
    assert head["IamInstanceProfile"]["Arn"].endswith("/enhance-ray")
    assert tags(head) >= {"project": "enhance-ray", "ray-node-type": "head"}.items()

    # What the autoscaler on the head would do when work comes.
    bootstrapped = _bootstrap_config(prepare_config(tree), no_config_cache=True)
    provider = _get_node_provider(bootstrapped["provider"], "enhance-ray")
    for name, kind in bootstrapped["available_node_types"].items():
        if name != "head":
            marks = {"ray-node-type": "worker", "ray-user-node-type": name, "ray-node-name": name}
            provider.create_node(kind["node_config"], marks, 1)
    workers = [each for each in instances(aws) if each["InstanceId"] != head["InstanceId"]]
    assert {each["InstanceType"] for each in workers} == {"g6.xlarge", "g5.xlarge", "c6i.4xlarge"}
    for each in workers:
        assert each["InstanceLifecycle"] == "spot"
        assert each["IamInstanceProfile"]["Arn"].endswith("/enhance-ray")
        assert tags(each) >= {"project": "enhance-ray", "ray-cluster-name": "enhance-ray"}.items()


def instances(aws):
    return [each for group in aws.describe_instances()["Reservations"] for each in group["Instances"]]


def tags(instance):
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}.items()


def test_what_the_guide_tells_nodes_to_install_is_uploaded_with_a_job():
    text = (ROOT / "docs" / "operations.md").read_text()
    options = [json.loads(found) for found in re.findall(r"--runtime-env-json '(\{.*?\})'", text)]
    [pinned, package] = next(option["pip"] for option in options if "pip" in option)
    folder = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"
    file = pinned.removeprefix(f"-c {folder}/")
    assert (ROOT / file).exists()
    assert f"/{file}" not in (ROOT / ".rayignore").read_text()
    extra = package.removeprefix(folder).strip("[]")
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
