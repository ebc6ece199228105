"""The files in cluster/ against schemas, and against the code that they name."""

import ast
import copy
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import ray
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from jsonschema import Draft7Validator
from packaging.requirements import Requirement
from ray._private import ray_constants
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
from ray.scripts.scripts import drain_node, start
from ray.serve.schema import ServeDeploySchema

from cluster import spot
from cluster.jobs import DASHBOARD_PORT, LEAST_RAY
from pipelines import cli, estimate, submit, submitted
from pipelines.api_keys import VARIABLE
from pipelines.problems import KINDS
from pipelines.serve import ENVIRONMENT, PORT
from pipelines.serve_replicas import INGRESS, NETWORK
from pipelines.serve_settings import ServeSettings

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
KUBERAY = ROOT / "tests/data/kuberay-1.7.0-crds.tar.xz"
"""The definitions in helm-chart/kuberay-operator/crds of KubeRay, unaltered, with its licence."""
KUBERNETES_VERSION = "1.31"
GUIDE = (ROOT / "docs/operate.md").read_text(encoding="utf-8")
DOCKERFILE = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
SERVE = yaml.safe_load((CLUSTER / "serve.yaml").read_text(encoding="utf-8"))
OVERLAYS = ("cpu", "gpu")
METRICS_PORT = 8080
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
AWS_NOTICE_S = 120

Manifest = dict[str, Any]


def manifests(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def build_overlay(name: str) -> list[Manifest]:
    """As `kubectl apply -k` sends it."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl isn't installed")
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / name)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return list(yaml.safe_load_all(run.stdout))


def of_kind(found: list[Manifest], kind: str) -> Manifest:
    (one,) = (each for each in found if each["kind"] == kind)
    return one


def written() -> list[Manifest]:
    """All manifests as they lie there."""
    paths = [*sorted((KUBERNETES / "base").glob("*.yaml")), *sorted(KUBERNETES.glob("*.yaml"))]
    return [each for path in paths if path.stem != "kustomization" for each in manifests(path)]


def closed(schema: Any) -> Any:
    """With fields that it doesn't name refused, as `kubectl apply` refuses them."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "properties" not in schema
    return ({} if is_open else {"additionalProperties": False}) | {
        name: closed(value) for name, value in schema.items()
    }


@functools.cache
def kuberay_schema(kind: str) -> Manifest:
    with tarfile.open(KUBERAY) as definitions:
        file = definitions.extractfile(f"ray.io_{kind.lower()}s.yaml")
        versions = yaml.load(file, yaml.CSafeLoader)["spec"]["versions"]
    (found,) = (each for each in versions if each["name"] == "v1")
    return closed(found["schema"]["openAPIV3Schema"])


def check(manifest: Manifest) -> list[str]:
    """What KubeRay refuses, and the first that Kubernetes does in each pod or manifest."""
    errors: list[Any] = []
    parts = [manifest]
    if manifest["apiVersion"] == "ray.io/v1":
        errors += Draft7Validator(kuberay_schema(manifest["kind"])).iter_errors(manifest)
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}
        parts = [
            pod | {"template": group["template"]}
            for cluster in clusters([manifest])
            for group in groups(cluster)
        ]
    for part in parts:
        try:
            kubernetes_validate.validate(part, KUBERNETES_VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            errors.append(error)
    return [f"{manifest['kind']}: {error.json_path}: {error.message}" for error in errors]


def clusters(found: list[Manifest]) -> Iterator[Manifest]:
    """The specifications of clusters of Ray in them."""
    for each in found:
        if each["kind"] == "RayCluster":
            yield each["spec"]
        elif each["kind"] == "RayService":
            yield each["spec"]["rayClusterConfig"]


def groups(cluster: Manifest) -> list[Manifest]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def containers(found: list[Manifest]) -> list[Manifest]:
    return [
        container
        for cluster in clusters(found)
        for group in groups(cluster)
        for container in group["template"]["spec"]["containers"]
    ]


# Kubernetes.


def test_the_manifests_have_the_fields_that_kuberay_and_kubernetes_know() -> None:
    assert {each["kind"] for each in written()} == {
        "RayCluster",
        "RayService",
        "RayJob",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ServiceAccount",
    }
    assert [error for each in written() for error in check(each)] == []


@pytest.mark.parametrize("part", ["head", "worker", "template"])
def test_a_field_that_neither_knows_is_found(part: str) -> None:
    cluster = of_kind(written(), "RayCluster")
    (worker,) = cluster["spec"]["workerGroupSpecs"]
    head = cluster["spec"]["headGroupSpec"]
    {"head": head, "worker": worker, "template": head["template"]["spec"]}[part]["maxReplica"] = 3
    found = check(cluster)
    assert found
    assert all("'maxReplica' was unexpected" in each for each in found)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_into_manifests_that_fit(overlay: str) -> None:
    found = build_overlay(overlay)
    assert [error for each in found for error in check(each)] == []
    assert {each["metadata"]["namespace"] for each in found} == {"resray"}
    images = {container["image"] for container in containers(found)}
    assert images == {f"REGISTRY/resray:0.1.0-{overlay}"}
    for cluster in clusters(found):
        names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
        assert names == (["cpu", "gpu"] if overlay == "gpu" else ["cpu"])


def test_gpus_are_asked_for_where_the_group_says_so() -> None:
    for cluster in clusters(build_overlay("gpu")):
        for group in groups(cluster):
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert ("nvidia.com/gpu" in limits) == (group.get("groupName") == "gpu")
        # An ingress doesn't fit where a replica of the network is to be.
        assert cluster["workerGroupSpecs"][1]["rayStartParams"] == {"num-cpus": "1"}


def test_the_service_is_that_of_serve_yaml() -> None:
    config = yaml.safe_load(of_kind(written(), "RayService")["spec"]["serveConfigV2"])
    assert config == SERVE


def test_on_gpus_only_what_a_replica_holds_differs() -> None:
    config = yaml.safe_load(of_kind(build_overlay("gpu"), "RayService")["spec"]["serveConfigV2"])
    args = config["applications"][0]["args"]
    assert (args["network_cpus"], args["network_gpus"]) == (1.0, 1.0)
    args |= {name: SERVE["applications"][0]["args"][name] for name in args if "network" in name}
    assert config == SERVE


def test_the_service_upgrades_beside_the_old_one_for_as_long_as_a_request_may_take() -> None:
    spec = of_kind(written(), "RayService")["spec"]
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    deadline_s = SERVE["applications"][0]["args"]["deadline_s"]
    assert spec["rayClusterDeletionDelaySeconds"] > deadline_s


def test_the_service_has_its_environment_on_every_machine() -> None:
    service = [of_kind(written(), "RayService")]
    for container in containers(service):
        given = {each["name"]: each.get("value") for each in container["env"]}
        given.pop(DRAIN, None)
        assert given == {**ENVIRONMENT, VARIABLE: None}


def check_workers_drain(found: list[Manifest]) -> None:
    """A worker's pod that is to go outlives its drain, which is as long as a request may take."""
    pods = [
        group["template"]["spec"] for each in clusters(found) for group in each["workerGroupSpecs"]
    ]
    assert pods
    for pod in pods:
        (container,) = pod["containers"]
        (drain_s,) = (float(e["value"]) for e in container["env"] if e["name"] == DRAIN)
        assert SERVE["applications"][0]["args"]["deadline_s"] < drain_s
        assert drain_s < pod["terminationGracePeriodSeconds"] < AWS_NOTICE_S


def test_workers_that_are_to_go_are_drained_first() -> None:
    assert DRAIN in vars(ray_constants), "Ray reads it"
    check_workers_drain(written())


def test_so_are_those_with_gpus() -> None:
    check_workers_drain(build_overlay("gpu"))


def test_serve_yaml_is_what_serve_and_the_builder_take() -> None:
    ServeDeploySchema.model_validate(SERVE)
    (application,) = SERVE["applications"]
    ServeSettings.from_mapping(application["args"])
    module, name = application["import_path"].split(":")
    assert callable(getattr(import_module(module), name))
    assert {each["name"] for each in application["deployments"]} <= {INGRESS, NETWORK}


@pytest.mark.parametrize("name", ["enhance", "train"])
def test_the_jobs_run_commands_that_exist_on_the_cluster_beside(name: str) -> None:
    (job,) = manifests(KUBERNETES / f"{name}.yaml")
    cluster = of_kind(written(), "RayCluster")["metadata"]["name"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster}
    python, flag, module, *words = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", submitted.__name__)
    args = submitted._parser().parse_args(words)
    assert cli.build_parser(name).parse_args(args.command).command == name


def labelled(found: list[Manifest]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each group of pods, and the labels that KubeRay gives them."""
    for each in found:
        for cluster in clusters([each]):
            for group in groups(cluster):
                name = group.get("groupName", "headgroup")
                own = {
                    "ray.io/cluster": each["metadata"]["name"],
                    "ray.io/group": name,
                    "ray.io/node-type": "worker" if "groupName" in group else "head",
                }
                if each["kind"] == "RayService":  # it makes up the name of its clusters
                    del own["ray.io/cluster"]
                given = group["template"].get("metadata", {}).get("labels", {})
                yield f"{each['kind']} {name}", given | own


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_heads_and_the_last_of_each_group_that_serves_are_not_evicted(overlay: str) -> None:
    found = build_overlay(overlay)
    budgets = {
        each["metadata"]["name"]: each["spec"]
        for each in found
        if each["kind"] == "PodDisruptionBudget"
    }
    kept = {
        name: [
            group
            for group, labels in labelled(found)
            if spec["selector"]["matchLabels"].items() <= labels.items()
        ]
        for name, spec in budgets.items()
    }
    on_gpus = {"resray-service-gpu": ["RayService gpu"]} if overlay == "gpu" else {}
    assert kept == on_gpus | {
        "resray-cluster-head": ["RayCluster headgroup"],
        "resray-service-head": ["RayService headgroup"],
        "resray-service-cpu": ["RayService cpu"],
    }
    # Of pods without a scale Kubernetes reads nothing else.
    assert all(type(spec["minAvailable"]) is int for spec in budgets.values())


def test_heads_are_kept_off_spot_machines_and_all_but_gpus_off_those_with_gpus() -> None:
    for cluster in clusters(build_overlay("gpu")):
        for group in groups(cluster):
            pod = group["template"]["spec"]
            if group.get("groupName") == "gpu":
                assert "affinity" not in pod
                continue
            needs = pod["affinity"]["nodeAffinity"][
                "requiredDuringSchedulingIgnoredDuringExecution"
            ]
            (term,) = needs["nodeSelectorTerms"]
            # A machine without the label fits.
            assert {each["operator"] for each in term["matchExpressions"]} == {"NotIn"}
            keys = [each["key"] for each in term["matchExpressions"]]
            assert keys[-1] == "nvidia.com/gpu.present"
            assert (len(keys) > 1) == ("groupName" not in group)


def test_ports_are_those_that_are_listened_on() -> None:
    expected = {"gcs": 6379, "dashboard": DASHBOARD_PORT, "metrics": METRICS_PORT, "serve": PORT}
    for container in containers(written()):
        assert {each["name"]: each["containerPort"] for each in container["ports"]}.items() <= (
            expected.items()
        )
    policy = of_kind(written(), "NetworkPolicy")["spec"]
    opened = [port["port"] for rule in policy["ingress"] for port in rule.get("ports", [])]
    assert opened == [DASHBOARD_PORT, PORT, METRICS_PORT]
    assert SERVE["http_options"]["port"] == PORT


def test_pods_are_no_root_and_hold_no_secret() -> None:
    for cluster in clusters(written()):
        assert cluster["authOptions"] == {"mode": "token"}
        for group in groups(cluster):
            assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in containers(written()):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        for each in container.get("env", []):
            assert ("valueFrom" in each) == bool(re.search("KEY|TOKEN|SECRET", each["name"]))


def test_ray_is_one_version_everywhere_and_new_enough() -> None:
    versions = {cluster["rayVersion"] for cluster in clusters(written())}
    assert versions == {build_arguments()["RAY"]}
    assert tuple(map(int, versions.pop().split(".")[:2])) >= LEAST_RAY


# The machines' image.


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: name and text, comments left out, lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    split = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, rest) for name, rest in split]


def build_arguments() -> dict[str, str]:
    pairs = [rest.partition("=") for name, rest in instructions() if name == "ARG"]
    return {name: value for name, _, value in pairs}


def declared_requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {each.name: each for each in map(Requirement, project["dependencies"])}


def test_the_image_is_pinned_ends_without_root_and_has_no_compiler() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+-slim-\w+", build_arguments()["PYTHON"])
    bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert bases == ["python:${PYTHON}"] * 2
    assert [rest for name, rest in instructions() if name == "USER"] == ["ray"]
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"apt-get install --yes --no-install-recommends (.*) \\", last_stage) == [
        "rsync wget"
    ]


def test_the_image_has_versions_that_the_project_takes() -> None:
    declared = declared_requirements()
    arguments = build_arguments()
    for name in ("ray", "torch", "torchvision"):
        assert declared[name].specifier.contains(arguments[name.upper()])
    (found,) = re.findall(r'"(ray\[.*?\])==', DOCKERFILE)
    assert Requirement(found).extras >= declared["ray"].extras | {"default"}
    python = tuple(map(int, arguments["PYTHON"].split("-")[0].split(".")[:2]))
    assert submitted.PYTHONS[0] <= python < submitted.PYTHONS[1]


def test_arguments_of_the_image_that_are_named_exist() -> None:
    named = re.findall(r"--build-arg ([A-Z_]+)=", DOCKERFILE + GUIDE)
    assert named
    assert set(named) <= build_arguments().keys()


def test_what_is_copied_into_the_image_installs_in_an_empty_folder(tmp_path: Path) -> None:
    """The step `pip install .` as the build runs it, but for what it downloads."""
    context, target = tmp_path / "src", tmp_path / "installed"
    copied = [rest.split() for name, rest in instructions() if name == "COPY"]
    for *sources, place in (words for words in copied if not words[0].startswith("--")):
        for source in sources:
            to = context / place
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, to, ignore=ignore)
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, to)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--target", str(target), "."]
    run = subprocess.run(command, cwd=context, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for package in submit.PACKAGES:
        packed = {path.relative_to(target) for path in (target / package).rglob("*.py")}
        assert packed == {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
    run = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "weights", "list"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "sr-x2" in run.stdout


def test_every_step_of_the_image_is_shell() -> None:
    steps = [rest for name, rest in instructions() if name == "RUN"]
    assert steps
    for step in steps:
        subprocess.run(["bash", "-n", "-c", step], check=True)


# AWS.


def aws() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "aws.yaml").read_text(encoding="utf-8"))


def test_ray_up_takes_the_file() -> None:
    prepared = prepare_config(aws())
    validate_config(prepared)
    # The image has all; Ray's own default would install another Ray.
    assert prepared["setup_commands"] == prepared["worker_setup_commands"] == []


def test_a_misspelt_field_is_refused_by_ray_up() -> None:
    config = prepare_config(aws() | {"max_worker": 3})
    with pytest.raises(Exception, match="max_worker"):
        validate_config(config)


def test_aws_has_a_head_without_work_and_gpus_on_spot() -> None:
    config = aws()
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    market = {
        name: each["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        for name, each in types.items()
        if each["resources"].get("GPU")
    }
    assert market == {"gpu": "spot"}
    assert all(each["node_config"]["IamInstanceProfile"]["Name"] for each in types.values())
    workers = sum(each.get("max_workers", 0) for each in types.values())
    assert config["max_workers"] == workers


def test_ray_start_knows_the_options() -> None:
    config = aws()
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [shlex.split(each)[2:] for each in commands if each.startswith("ray start")]
    assert len(starts) == 2
    for options in starts:
        context = start.make_context("ray start", [each.replace("$", "") for each in options])
        assert context.params["metrics_export_port"] == METRICS_PORT
    assert f"--dashboard-port={DASHBOARD_PORT}" in starts[0]
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]


def test_spot_workers_wait_for_the_notice_of_aws() -> None:
    (command,) = (each for each in aws()["worker_start_ray_commands"] if "cluster.spot" in each)
    subprocess.run(["bash", "-n", "-c", command], check=True)
    words = shlex.split(command.replace("$", ""))
    first = words.index("cluster.spot") + 1
    assert spot._parser().parse_args(words[first : first + 2]).address == "RAY_HEAD_IP:6379"
    assert drain_node.make_context("ray drain-node", spot.drain_command("h:1", "0a", 9)[2:])


# Commands in files and in the guide.


def named_commands() -> list[str]:
    """`resray ...` where a line has it, a quotation or a block."""
    files = [path for path in CLUSTER.rglob("*") if path.suffix in {".yaml", ""} and path.is_file()]
    texts = [*(path.read_text(encoding="utf-8") for path in files), GUIDE]
    text = "\n".join([*texts, submit.EPILOG, estimate.EPILOG])
    text = text.replace("\\\n", " ")
    found = re.findall(r"(?:^[# ]*|`|&& |then: )(resray [a-z][^`\n#&]*)", text, re.MULTILINE)
    # Without what explains it behind three spaces; its name alone is no command.
    return sorted({each.partition("   ")[0].strip() for each in found} - {"resray submit"})


@pytest.mark.parametrize("command", named_commands())
def test_a_command_that_is_named_is_understood(command: str) -> None:
    words = shlex.split(command)[1:]
    if words[-1] == "--help":
        words = words[:-1]
        assert words[0] in cli.COMMANDS
        return
    args = cli.build_parser(words[0]).parse_args(words)
    if args.command == "submit" and args.words[0] in cli.COMMANDS:
        cli.build_parser(args.words[0]).parse_args(args.words)


def test_the_commands_are_found() -> None:
    kinds = {shlex.split(each)[1] for each in named_commands()}
    assert {"submit", "enhance", "estimate", "weights", "serve"} <= kinds


def test_paths_that_are_named_exist() -> None:
    files = [path for path in CLUSTER.rglob("*") if path.suffix in {".yaml", ""} and path.is_file()]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files) + GUIDE
    named = set(re.findall(r"\b(?:cluster|pipelines|tests|docs)/[\w./-]*\w", text))
    assert "cluster/kubernetes/overlays/gpu" in named
    assert sorted(path for path in named if not (ROOT / path).exists()) == []
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", GUIDE)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


# Monitoring.

ALERTS = yaml.safe_load((CLUSTER / "monitoring/alerts.yaml").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((CLUSTER / "monitoring/dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    targets = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return targets + [rule["expr"] for rule in RULES]


def own_metrics() -> dict[str, set[str]]:
    """As Prometheus has them, with their labels."""
    found: dict[str, set[str]] = {}
    source = (ROOT / "pipelines/serve_metrics.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        kind = node.func.id
        if kind in {"Counter", "Gauge", "Histogram"}:
            name = f"ray_{ast.literal_eval(node.args[0])}"
            tags = {
                ast.literal_eval(tag)
                for each in node.args
                if isinstance(each, ast.Call)
                for tag in each.args
            }
            suffixes = ("_bucket", "_sum", "_count") if kind == "Histogram" else ("",)
            found |= {name + suffix: tags | {"le"} for suffix in suffixes}
    return found


def ray_metrics() -> set[str]:
    """Of the installed Ray: those of machines, and what Serve and Data declare by name."""
    package = Path(ray.__file__).parent
    files = [*(package / "serve/_private").glob("*.py"), package / "data/_internal/stats.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    declared = set(re.findall(r'"((?:serve|data)_[a-z_]+)"', text))
    return {f"ray_{name}" for name in declared | set(METRICS_GAUGES)}


def test_every_metric_exists() -> None:
    used = {name for each in expressions() for name in re.findall(r"\bray_[a-z_]+", each)}
    known = own_metrics().keys() | ray_metrics()
    assert sorted(used - known) == []
    assert {name for name in used if "resray" in name}
    assert "ray_resray_no_such" not in known


def test_every_label_of_our_metrics_exists_and_every_status_is_told() -> None:
    statuses = {str(kind.status) for kind in KINDS.values()} | {"200"}
    for each in expressions():
        for name, selector in re.findall(r"(ray_resray_\w+)\{(.*?)\}", each):
            for label, value in re.findall(r'(\w+)="(.*?)"', selector):
                assert label in own_metrics()[name]
                assert label != "status" or value in statuses
        for labels, name in re.findall(r"by \((.*?)\) \(rate\((ray_resray_\w+)", each):
            assert set(labels.split(", ")) <= own_metrics()[name]


def test_alerts_are_rules_and_the_guide_explains_each() -> None:
    for rule in RULES:
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    assert re.findall(r"^\| (Res?ray\w+|Ray\w+) \|", GUIDE, re.MULTILINE) == names


def promtool(*words: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool, of Debian's package prometheus, isn't installed")
    run = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_prometheus_takes_the_alerts_and_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    queries = [each.replace("$__rate_interval", "5m") for each in expressions()]
    records = [{"record": f"query{number}", "expr": each} for number, each in enumerate(queries)]
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"groups": [{"name": "queries", "rules": records}]}))
    promtool("check", "rules", str(CLUSTER / "monitoring/alerts.yaml"), str(rules))


def test_each_alert_comes_when_it_should_and_not_otherwise() -> None:
    file = ROOT / "tests/data/alerts.test.yaml"
    tested = [
        [case["alertname"] for case in each["alert_rule_test"] if ("exp_alerts" in case) == comes]
        for each, comes in zip(
            yaml.safe_load(file.read_text(encoding="utf-8"))["tests"], (False, True), strict=True
        )
    ]
    assert tested == [[rule["alert"] for rule in RULES]] * 2
    promtool("test", "rules", str(file))


def lost(written: Any, kept: Any, path: str = "") -> list[str]:
    """Where `kept`, which may have more fields, hasn't what was written."""
    if isinstance(written, dict) and isinstance(kept, dict):
        parts = [(f"{path}.{name}", value, kept.get(name)) for name, value in written.items()]
    elif isinstance(written, list) and isinstance(kept, list) and len(written) == len(kept):
        pairs = enumerate(zip(written, kept, strict=True))
        parts = [(f"{path}[{index}]", *pair) for index, pair in pairs]
    else:
        return [] if written == kept else [path]
    return [each for name, *pair in parts for each in lost(*pair, name)]


def lost_by_grafana(dashboard: Manifest) -> list[str]:
    """Fields that the types that Grafana publishes don't know."""
    register_default_plugins()
    return lost(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard))))


def test_grafana_knows_all_fields_of_the_dashboard() -> None:
    assert lost_by_grafana(DASHBOARD) == []


def test_a_field_that_grafana_does_not_know_is_found() -> None:
    dashboard = copy.deepcopy(DASHBOARD)
    index, panel = next(each for each in enumerate(dashboard["panels"]) if "targets" in each[1])
    for part in (panel, panel["fieldConfig"]["defaults"], panel["targets"][0]):
        part["unti"] = "s"
    places = (".targets[0]", ".fieldConfig.defaults", "")
    found = lost_by_grafana(dashboard)
    assert sorted(found) == sorted(f".panels[{index}]{place}.unti" for place in places)


def test_the_dashboard_is_whole_and_nothing_lies_over_another() -> None:
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert taken.isdisjoint(cells), panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    (variable,) = DASHBOARD["templating"]["list"]
    source = {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
    for panel in PANELS:
        assert panel["datasource"] == source
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"] == source for target in panel["targets"])
