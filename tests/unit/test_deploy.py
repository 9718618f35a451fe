"""What is deployed, looked at without deploying it: Dockerfiles, compose files, Kubernetes manifests, secrets.

Run by: make check, pytest. Must not import: anything that starts a service.
Example: pytest tests/unit/test_deploy.py
"""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from contract.settings import SECRETS, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
KUBERNETES_VERSION = "1.30"
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
KERNELS = "/var/cache/triton"
OURS = ("api", "worker", "writer", "trainer", "flower", "crew")
STORE = {"AWS_SHARED_CREDENTIALS_FILE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"}  #: boto's, for a bucket
#: Names that x-settings may hold
KNOWN = {name.upper() for name in Settings.model_fields} | {f"{name.upper()}_FILE" for name in SECRETS} | STORE

DOCUMENTS = [
    (path.relative_to(KUBERNETES), document)
    for path in sorted(KUBERNETES.rglob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
OTHERS = ("keda.sh/", "kustomize.config.k8s.io/")  #: kinds that Kubernetes itself does not know
PLAIN = [(path, doc) for path, doc in DOCUMENTS if not doc["apiVersion"].startswith(OTHERS)]
KEDA = {doc["kind"]: doc for _, doc in DOCUMENTS if doc["apiVersion"] == "keda.sh/v1alpha1"}


# -- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Dockerfile.api", "Dockerfile.gpu"])
def test_dockerfiles_pass_hadolint(name):
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, "--no-color", REPOSITORY / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["Dockerfile.api", "Dockerfile.gpu"])
def test_images_run_as_a_number_that_is_not_root_and_check_their_health(name):
    lines = (REPOSITORY / name).read_text().splitlines()
    assert "USER 10001" in lines  # Kubernetes can tell from a number alone that it is not root
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    last_stage = "\n".join(lines).rpartition("\nFROM ")[2]
    assert not any(tool in last_stage for tool in ("build-essential", "g++", "make ", "pip install"))
    # Triton compiles where the worker runs (tests/services/test_image_compiles.py), and nothing else may
    assert ("gcc" in last_stage) == (name == "Dockerfile.gpu")
    assert last_stage.index("/venv /venv") < last_stage.index("COPY contract"), "code changes must not install again"


# -- compose -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", OURS)
def test_our_services_run_hardened(service):
    found = COMPOSE["services"][service]
    assert (found["read_only"], found["cap_drop"], found["init"]) == (True, ["ALL"], True)
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in found["tmpfs"]


@pytest.mark.parametrize("service", OURS)
def test_no_tmpfs_but_that_for_kernels_allows_execution(service):
    options = dict(mount.partition(":")[::2] for mount in COMPOSE["services"][service]["tmpfs"])
    executable = [folder for folder, given in options.items() if "exec" in given.split(",")]
    assert executable == ([KERNELS] if service in ("worker", "trainer") else [])
    assert f"TRITON_CACHE_DIR={KERNELS}" in (REPOSITORY / "Dockerfile.gpu").read_text()


def test_a_stopped_worker_has_time_to_finish():
    grace_s = {name: int(COMPOSE["services"][name]["stop_grace_period"].rstrip("s")) for name in ("worker", "writer")}
    assert min(grace_s.values()) >= 60
    for _, doc in PLAIN:
        if doc["kind"] == "Deployment" and doc["metadata"]["name"] in ("worker", "writer"):
            assert doc["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 60


def test_every_variable_that_compose_passes_on_is_a_setting():
    assert set(COMPOSE["x-settings"]) - KNOWN == set()


def test_a_registry_in_a_bucket_works_in_both_images_and_is_cached_where_they_may_write():
    for name in ("Dockerfile.api", "Dockerfile.gpu"):
        (listed,) = re.findall(r"requirements\.py (.*) > requirements\.txt", (REPOSITORY / name).read_text())
        assert "s3" in listed.split(), f"{name}: it reads the registry"
    assert set(COMPOSE["x-settings"]) >= STORE
    assert COMPOSE["x-settings"]["MODEL_CACHE_DIR"] == "/models"
    base = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    assert "MODEL_CACHE_DIR=/models" in base["configMapGenerator"][0]["literals"]


def test_the_api_may_write_where_versions_lie_for_its_status_page_promotes_and_rolls_back():
    assert "models:/models" in COMPOSE["services"]["api"]["volumes"]
    (api,) = [doc for _, doc in PLAIN if doc["kind"] == "Deployment" and doc["metadata"]["name"] == "api"]
    (container,) = api["spec"]["template"]["spec"]["containers"]
    assert {"name": "models", "mountPath": "/models"} in container["volumeMounts"]


def test_every_variable_of_env_example_is_used_by_compose():
    text = (REPOSITORY / "docker-compose.yml").read_text()
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    names = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]
    assert [name for name in names if f"${{{name}:" not in text] == []


def test_no_secret_is_in_the_environment_or_on_a_command_line():
    for name, service in COMPOSE["services"].items():
        for variable, value in service.get("environment", {}).items():
            secret = any(word in variable for word in ("PASS", "TOKEN", "KEY", "SECRET", "REDIS_URL"))
            assert not secret or variable.endswith("_FILE"), f"{name}: {variable}={value}"


def test_redis_is_durable_limited_and_refuses_rather_than_forgets():
    command = COMPOSE["services"]["redis"]["command"][-1]
    for option in ("--appendonly yes", "--maxmemory-policy noeviction", "--maxmemory ${REDIS_MAXMEMORY", "requirepass"):
        assert option in command
    assert COMPOSE["services"]["redis"]["mem_limit"]


def test_nothing_listens_beyond_this_host_unless_someone_says_so():
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(":-127.0.0.1:" in port for port in published)


def test_label_studio_finds_the_api_under_a_name_with_a_dot():
    (alias,) = COMPOSE["services"]["api"]["networks"]["default"]["aliases"]
    assert "." in alias


# -- secrets -------------------------------------------------------------------------------------------------------


def run_make_env(folder):
    script, example = REPOSITORY / "deploy" / "make_env.py", REPOSITORY / ".env.example"
    command = [sys.executable, script, example, folder / ".env", folder / "secrets"]
    return subprocess.run(command, check=True, capture_output=True, text=True, umask=0o077).stdout


def test_make_env_gives_every_secret_of_compose_a_file_that_containers_can_read(tmp_path):
    run_make_env(tmp_path)
    folder = tmp_path / "secrets"
    assert {path.name for path in folder.iterdir()} == set(COMPOSE["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    password = (folder / "redis_password").read_text()
    assert (folder / "redis_url").read_text() == f"redis://:{password}@redis:6379/0"
    given = {"label_studio_api_key", "aws_credentials"}
    texts = [path.read_text() for path in folder.iterdir() if path.name not in given]
    assert len(set(texts)) == len(texts)
    assert all(len(text) >= 32 for text in texts)


def test_make_env_changes_nothing_that_is_there(tmp_path):
    run_make_env(tmp_path)
    (tmp_path / "secrets" / "label_studio_api_key").write_text("token")
    before = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert "left as it is" in run_make_env(tmp_path)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == before


def test_the_sums_of_the_weights_are_whole_and_fit_the_official_name():
    lines = (REPOSITORY / "deploy" / "weights.sha256").read_text().splitlines()
    sums = {path: digits for digits, path in (line.split() for line in lines if not line.startswith("#"))}
    assert all(re.fullmatch("[0-9a-f]{64}", digits) for digits in sums.values())
    (checkpoint,) = [path for path in sums if path.endswith(".pth")]
    assert checkpoint.endswith(f"-{sums[checkpoint][:8]}.pth")
    bert = {Path(path).name for path in sums if path.startswith("bert-base-uncased/")}
    assert bert == {"config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}


# -- Kubernetes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "document"), PLAIN, ids=lambda value: str(value) if isinstance(value, Path) else "")
def test_manifests_fit_kubernetes_schemas(path, document):
    kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def test_the_job_of_the_scaled_job_fits_too():
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "trainer"},
           "spec": KEDA["ScaledJob"]["spec"]["jobTargetRef"]}  # fmt: skip
    kubernetes_validate.validate(job, KUBERNETES_VERSION, strict=True)


def test_keda_scales_by_what_is_in_hand_and_can_authenticate():
    for kind, role in (("ScaledObject", "predict"), ("ScaledJob", "train")):
        (trigger,) = KEDA[kind]["spec"]["triggers"]
        assert trigger["type"] == "metrics-api"
        assert trigger["metadata"]["url"].endswith("/metrics/outstanding")
        assert trigger["metadata"]["valueLocation"] == role
        assert trigger["metadata"]["authMode"] == "bearer"
        assert isinstance(trigger["metadata"]["targetValue"], str), "KEDA takes texts only"
        assert trigger["authenticationRef"]["name"] == KEDA["TriggerAuthentication"]["metadata"]["name"]
    assert KEDA["ScaledObject"]["spec"]["minReplicaCount"] == 0
    (token,) = KEDA["TriggerAuthentication"]["spec"]["secretTargetRef"]
    assert (token["parameter"], token["key"]) == ("token", "API_TOKEN")


def test_what_keda_scales_has_no_number_of_its_own():
    (worker,) = [doc for _, doc in PLAIN if doc["kind"] == "Deployment" and doc["metadata"]["name"] == "worker"]
    assert KEDA["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == "worker"
    assert "replicas" not in worker["spec"], "or each apply would undo what KEDA did"


def test_kustomizations_name_all_files_and_no_others():
    for path in KUBERNETES.rglob("kustomization.yaml"):
        named = yaml.safe_load(path.read_text())
        for resource in named.get("resources", []) + named.get("components", []):
            assert (path.parent / resource).exists(), f"{path}: {resource}"
    named = set(yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["resources"])
    assert named == {path.name for path in (KUBERNETES / "base").glob("*.yaml")} - {"kustomization.yaml"}


def test_settings_and_secrets_of_kubernetes_are_known():
    names = [line.partition("=")[0] for path in KUBERNETES.glob("example/secrets.env.example")
             for line in path.read_text().splitlines()]  # fmt: skip
    for path in KUBERNETES.rglob("kustomization.yaml"):
        for generator in yaml.safe_load(path.read_text()).get("configMapGenerator", []):
            names += [literal.partition("=")[0] for literal in generator["literals"]]
    assert names
    assert set(names) - KNOWN == set()


def test_pods_may_run_where_only_restricted_ones_may():
    pods = [doc["spec"]["template"]["spec"] for _, doc in PLAIN if "template" in doc.get("spec", {})]
    pods.append(KEDA["ScaledJob"]["spec"]["jobTargetRef"]["template"]["spec"])
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}  # fmt: skip
        assert "limits" in container["resources"]


def test_pods_with_a_gpu_have_a_place_for_what_triton_compiles():
    pods = [doc["spec"]["template"]["spec"] for _, doc in PLAIN if "template" in doc.get("spec", {})]
    pods.append(KEDA["ScaledJob"]["spec"]["jobTargetRef"]["template"]["spec"])
    for pod in pods:
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        if "nvidia.com/gpu" in container["resources"]["limits"]:
            assert volumes[mounts[KERNELS]]["emptyDir"] == {}
        else:
            assert KERNELS not in mounts


def test_labels_of_services_policies_and_budgets_select_pods():
    labels = [doc["spec"]["template"]["metadata"]["labels"] for _, doc in PLAIN if "template" in doc.get("spec", {})]
    labels.append(KEDA["ScaledJob"]["spec"]["jobTargetRef"]["template"]["metadata"]["labels"])
    for _, doc in PLAIN:
        selector = doc.get("spec", {}).get("selector" if doc["kind"] != "NetworkPolicy" else "podSelector", {})
        wanted = selector.get("matchLabels", {} if "matchLabels" in selector or not selector else selector)
        assert any(wanted.items() <= found.items() for found in labels), json.dumps(doc["metadata"])
