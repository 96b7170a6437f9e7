"""The Kubernetes manifests: valid by the published schemas, and of one piece with each other."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from declarations import CLUSTER, DOCKER, documents, instructions, named, objects, pods

CORE = [(file, o) for file, o in objects() if o["kind"] != "RayCluster"]


@pytest.fixture(scope="session")
def ray_cluster_schema() -> dict[str, Any]:
    """Return KubeRay's published schema, where it is at hand."""
    given = os.environ.get("BERTJOBS_TEST_SCHEMAS")
    data = os.environ.get("BERTJOBS_TEST_DATA")
    folder = Path(given) if given else Path(data or "/nowhere") / "schemas"
    path = folder / "raycluster-v1.schema.json"
    if not path.is_file():
        pytest.skip("neither BERTJOBS_TEST_SCHEMAS nor BERTJOBS_TEST_DATA names KubeRay's schema")
    return dict(json.loads(path.read_text()))


def closed(schema: Any) -> Any:
    """Refuse fields that the schema does not know, as the API server does with strict validation."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: closed(part) for key, part in schema.items()}
    is_open = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & schema.keys()
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        parts["additionalProperties"] = False
    return parts


@pytest.mark.parametrize(("file", "manifest"), CORE, ids=[f"{f}:{o['kind']}" for f, o in CORE])
def test_a_manifest_is_valid_by_its_published_schema(file, manifest):
    kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_a_manifest_with_a_wrong_field_would_be_noticed():
    wrong = json.loads(json.dumps(named("Deployment", "dispatcher")))
    wrong["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_the_ray_cluster_is_valid_by_kuberays_schema(ray_cluster_schema):
    cluster = named("RayCluster", "bertjobs")
    schema = closed(ray_cluster_schema)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(cluster, schema)
    cluster["spec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, schema)


def test_the_pods_of_ray_are_valid_by_the_core_schema():
    for name, template in pods():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_every_file_but_the_secrets_is_applied():
    (kustomization,) = documents(CLUSTER / "kustomization.yaml")
    applied = {Path(name).name for name in kustomization["resources"]}
    assert applied == {path.name for path in (CLUSTER / "kubernetes").glob("*.yaml")} - {
        "secrets.template.yaml"
    }
    for generated in kustomization["configMapGenerator"]:
        assert all((CLUSTER / name).is_file() for name in generated["files"])


def test_the_template_of_the_secrets_holds_no_value():
    secrets = [o for file, o in objects() if file == "secrets.template.yaml"]
    assert len(secrets) == 5
    assert all(value == "" for secret in secrets for value in secret["stringData"].values())
    assert not [o for file, o in objects() if o["kind"] == "Secret" and file != "secrets.template.yaml"]


def test_what_pods_mount_is_declared_somewhere():
    secrets = {o["metadata"]["name"]: set(o["stringData"]) for _, o in objects() if o["kind"] == "Secret"}
    claims = {o["metadata"]["name"] for _, o in objects() if o["kind"] == "PersistentVolumeClaim"}
    seen = set()
    for _, template in pods():
        spec = template["spec"]
        for volume in spec["volumes"]:
            if "secret" in volume:
                seen.add(volume["secret"]["secretName"])
            if "projected" in volume:
                sources = volume["projected"]["sources"]
                seen |= {source["secret"]["name"] for source in sources if "secret" in source}
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        known = {volume["name"] for volume in spec["volumes"]} | {"data"}
        mounted = {m["name"] for container in spec["containers"] for m in container["volumeMounts"]}
        assert mounted <= known
    auth = named("RayCluster", "bertjobs")["spec"]["authOptions"]
    assert seen | {auth["secretName"]} == set(secrets)
    assert secrets[auth["secretName"]] == {"auth_token"}


def test_secret_files_that_are_named_are_keys_of_the_secret_behind_them():
    secrets = {o["metadata"]["name"]: set(o["stringData"]) for _, o in objects() if o["kind"] == "Secret"}
    for name, template in pods():
        if name == "redis":
            continue  # its files are laid out by a projection, and start.sh looks for them
        spec = template["spec"]
        of_volume = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
        (container,) = spec["containers"]
        of_path = {
            m["mountPath"]: of_volume[m["name"]] for m in container["volumeMounts"] if m["name"] in of_volume
        }
        files = [Path(e["value"]) for e in container["env"] if e["value"].startswith("/run/secrets/")]
        assert len(files) >= 2
        for file in files:
            assert file.name in secrets[of_path[str(file.parent)]]


def test_no_pod_runs_as_root_and_none_gains_rights():
    found = list(pods())
    assert len(found) == 5
    for _, template in found:
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert ":" in container["image"]
            assert not container["image"].endswith(":latest")


def test_services_and_policies_point_at_pods_and_ports_that_are_there():
    labels = [template["metadata"]["labels"] for _, template in pods()]
    labels += [{"ray.io/cluster": "bertjobs"}]  # KubeRay's own
    selectors = [o["spec"]["selector"] for _, o in objects() if o["kind"] == "Service"]
    ports = {p["name"] for _, t in pods() for c in t["spec"]["containers"] for p in c["ports"]}
    ports |= {p["containerPort"] for _, t in pods() for c in t["spec"]["containers"] for p in c["ports"]}
    policies = [o["spec"] for _, o in objects() if o["kind"] == "NetworkPolicy"]
    for policy in policies:
        selectors += [policy["podSelector"].get("matchLabels", {})]
        for rule in policy.get("ingress", []):
            selectors += [s["podSelector"]["matchLabels"] for s in rule["from"] if "podSelector" in s]
            assert {p["port"] for p in rule.get("ports", [])} <= ports
    assert len(policies) == 5
    for selector in selectors:
        assert any(selector.items() <= found.items() for found in labels), selector


def test_two_dispatchers_stand_ready_and_one_redis_keeps_its_data():
    assert named("Deployment", "dispatcher")["spec"]["replicas"] == 2
    redis = named("StatefulSet", "redis")["spec"]
    assert redis["replicas"] == 1
    assert redis["volumeClaimTemplates"][0]["metadata"]["name"] == "data"


GIB = 2**30


def ray_groups():
    spec = named("RayCluster", "bertjobs")["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def gib_of(text: str) -> float:
    assert text.endswith("Gi")
    return float(text.removesuffix("Gi"))


def test_shared_memory_holds_the_object_store_of_every_group_and_leaves_memory_for_work():
    assert len(ray_groups()) == 3
    for group in ray_groups():
        spec = group["template"]["spec"]
        (shared,) = [v["emptyDir"] for v in spec["volumes"] if v["name"] == "shared-memory"]
        (limits,) = [container["resources"]["limits"] for container in spec["containers"]]
        store_gib = int(group["rayStartParams"]["object-store-memory"]) / GIB
        assert shared["medium"] == "Memory"
        assert store_gib < gib_of(shared["sizeLimit"]) <= gib_of(limits["memory"]) / 2


def test_the_dispatcher_asks_for_what_the_groups_may_grow_to():
    (container,) = named("Deployment", "dispatcher")["spec"]["template"]["spec"]["containers"]
    asked = {e["name"]: e["value"] for e in container["env"] if "AUTOSCALE" in e["name"]}
    cpu, gpu = named("RayCluster", "bertjobs")["spec"]["workerGroupSpecs"]
    limits = [g["template"]["spec"]["containers"][0]["resources"]["limits"] for g in (cpu, gpu)]
    assert asked == {
        "BERTJOBS_AUTOSCALE_GPUS": str(gpu["maxReplicas"] * int(limits[1]["nvidia.com/gpu"])),
        "BERTJOBS_AUTOSCALE_CPUS": str(cpu["maxReplicas"] * int(limits[0]["cpu"])),
    }
    assert named("RayCluster", "bertjobs")["spec"]["enableInTreeAutoscaling"] is True


def test_only_the_autoscaler_gets_a_token_of_kubernetes():
    spec = named("RayCluster", "bertjobs")["spec"]
    (mount,) = spec["autoscalerOptions"]["volumeMounts"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    head, *workers = [group["template"]["spec"] for group in ray_groups()]
    assert mount["name"] in [volume["name"] for volume in head["volumes"]]
    for pod in (head, *workers):
        assert all(m["name"] != mount["name"] for c in pod["containers"] for m in c["volumeMounts"])
    assert all(mount["name"] not in [v["name"] for v in pod["volumes"]] for pod in workers)


def test_a_dispatcher_is_ready_once_it_makes_passes():
    (container,) = named("Deployment", "dispatcher")["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "metrics"}
    assert container["livenessProbe"]["httpGet"] == container["readinessProbe"]["httpGet"]


def test_disruptions_have_a_budget_for_all_but_redis_which_a_job_survives():
    budgets = [o["spec"] for _, o in objects() if o["kind"] == "PodDisruptionBudget"]
    selected = [budget["selector"]["matchLabels"] for budget in budgets]
    assert {"app.kubernetes.io/name": "dispatcher"} in selected
    kinds = {labels["ray.io/node-type"] for labels in selected if "ray.io/node-type" in labels}
    assert kinds == {"head", "worker"}


def test_every_volume_names_a_class_to_fill_in():
    claims = [o["spec"] for _, o in objects() if o["kind"] == "PersistentVolumeClaim"]
    claims += [claim["spec"] for claim in named("StatefulSet", "redis")["spec"]["volumeClaimTemplates"]]
    assert {claim["storageClassName"] for claim in claims} == {"shared-files", "fast-disk"}
    readme = (CLUSTER / "README.md").read_text()
    assert "`shared-files`" in readme and "`fast-disk`" in readme and "`kubernetes/outside.yaml`" in readme


def test_who_may_reach_redis_from_outside_is_said_the_same_in_both_places():
    service, policy = named("Service", "redis-outside"), named("NetworkPolicy", "redis-outside")
    allowed = [s["ipBlock"]["cidr"] for rule in policy["spec"]["ingress"] for s in rule["from"]]
    assert service["spec"]["loadBalancerSourceRanges"] == allowed
    assert "0.0.0.0/0" not in allowed
    (port,) = service["spec"]["ports"]
    assert port == named("Service", "redis")["spec"]["ports"][0]


def test_ray_is_the_version_of_the_image():
    pinned = (DOCKER.parent / "constraints.txt").read_text()
    assert f"ray=={named('RayCluster', 'bertjobs')['spec']['rayVersion']}\n" in pinned


def test_the_images_are_those_that_the_dockerfile_makes():
    targets = {arguments.split(" AS ")[1] for word, arguments in instructions() if word == "FROM"}
    images = {c["image"] for _, t in pods() for c in t["spec"]["containers"]}
    ours = {image for image in images if image.startswith("bertjobs-")}
    assert {image.split(":")[0].removeprefix("bertjobs-") for image in ours} == targets & {"control", "ray"}
