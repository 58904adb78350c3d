"""What the values of the Helm chart do, and what they refuse."""

import json

import pytest
import yaml
from test_helm import AUTH, CHART, EXTERNAL, FLEET, HELMS, KUBERNETES, SETS, TLS, find, helm, template
from test_manifests import of, pods


def refusal(*values, version="v4"):
    words = [word for value in values for word in ("--set", value)]
    done = helm("template", "streamway", CHART, KUBERNETES, *words, version=version, check=False)
    assert done.returncode != 0, f"{values} is taken"
    return done.stderr


@pytest.mark.parametrize(
    "values, said",
    [
        (("repliaCount=2",), "repliaCount"),
        (("service.typ=NodePort",), "typ"),
        (("config.drain_timeout=3s",), "drain_timeout"),
        (("replicaCount=two",), "replicaCount"),
        (("engine=kafka",), "engine"),
        (("image.tag=a b",), "tag"),
        (("image.digest=sha256:12",), "digest"),
        (("persistence.size=big",), "size"),
        (("service.type=External",), "type"),
        (("nats.url=http://nats",), "url"),
        (("otel.tracesRatio=2",), "tracesRatio"),
        (("replicaCount=2",), "engine: jetstream"),
        (("nats.bundled.enabled=true",), "Set engine: jetstream"),
        (("engine=jetstream",), "needs nats.url, or nats.bundled.enabled"),
        ((*FLEET, "nats.url=nats://a"), "either nats.url or nats.bundled.enabled"),
        ((*FLEET, "nats.credentials.method=token"), "accept an nkey only"),
        (("engine=jetstream", "nats.url=nats://a", "nats.credentials.method=token"), "the method token needs a Secret"),
        (("auth.enabled=true",), "auth.existingSecret"),
        (("resources.limits.memory=2Gi",), "must exceed STREAMWAY_MEMORY_MAX"),
        (("config.STREAMWAY_DRAIN_TIMEOUT=40s",), "must be at least 42"),
    ],
)
@pytest.mark.parametrize("version", HELMS)
def test_nonsense_is_refused_by_its_name(values, said, version):
    assert said in refusal(*values, version=version)


def test_every_value_of_the_file_is_in_the_schema_and_the_reverse():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(schema, values, path):
        if "properties" in schema and schema.get("additionalProperties") is False:
            assert values is None or set(schema["properties"]) >= set(values), path
            if path != ".tls.certManager.issuerRef":
                assert set(schema["properties"]) == set(values), path
                for key, value in values.items():
                    compare(schema["properties"][key], value, f"{path}.{key}")

    compare(schema, values, "")


def variables(objects):
    return {key: str(value) for key, value in find(objects, "ConfigMap")["data"].items() if key.startswith("STREAMWAY_")}


def test_the_server_takes_its_settings():
    for name, values in SETS.items():
        checked = of(variables(template(*values)))
        assert checked["engine"] == ("embedded" if "single" in name else "jetstream"), name
    checked = of(variables(template("config.STREAMWAY_REFLECTION=false", "config.STREAMWAY_STREAMS_MAX=9500")))
    assert checked["reflection"] == "false" and checked["streams_max"] == "9500"
    # A number of the default values is not printed as 2.68435456e+08, and null takes a default back.
    assert variables(template())["STREAMWAY_QUOTA_PUBLISH_BYTES_PER_S"] == "268435456"
    assert "STREAMWAY_MEMORY_MAX" not in variables(template("config.STREAMWAY_MEMORY_MAX=null"))


def test_an_external_nats():
    objects = template(*EXTERNAL)
    assert not [item for item in objects if "nats" in item["metadata"]["name"] or item["kind"] in ("Job", "Role")]
    said = variables(objects)
    assert said["STREAMWAY_NATS_URL"] == "nats://a.example:4222,nats://b.example:4333"
    pod = find(objects, "Deployment")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"]}
    assert secrets["nats-key"]["secretName"] == "mine" and secrets["nats-tls"]["secretName"] == "ca"
    files = {f"{mounts[name]}/{item['path']}" for name, secret in secrets.items() for item in secret["items"]}
    assert {value for key, value in said.items() if key.startswith("STREAMWAY_NATS_") and value.startswith("/")} == files
    egress = find(objects, "NetworkPolicy")["spec"]["egress"]
    assert [{"port": 4222, "protocol": "TCP"}, {"port": 4333, "protocol": "TCP"}] in [rule["ports"] for rule in egress]
    password = template(
        "engine=jetstream", "nats.url=nats://a", "nats.credentials.method=password", "nats.credentials.existingSecret=mine"
    )
    (container,) = find(password, "Deployment")["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry["valueFrom"] for entry in container["env"] if entry["name"].startswith("STREAMWAY_")}
    assert given == {
        f"STREAMWAY_NATS_{key.upper()}": {"secretKeyRef": {"name": "mine", "key": key}} for key in ("user", "password")
    }


def test_what_a_platform_team_sets(tmp_path):
    digest = "sha256:" + "0123456789abcdef" * 4
    values = {
        "global": {"imageRegistry": "registry.example:5000"}, "image": {"digest": digest, "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}], "commonLabels": {"team": "a"},
        "extraEnv": [{"name": "RUST_LOG", "value": "info"}], "extraEnvFrom": [{"secretRef": {"name": "more"}}],
        "extraArgs": ["-v"], "extraVolumes": [{"name": "x", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}], "extraContainers": [{"name": "side", "image": "side:1"}],
        "initContainers": [{"name": "first", "image": "first:1"}],
        "affinity": {"nodeAffinity": {}}, "tolerations": [{"key": "k", "operator": "Exists"}], "nodeSelector": {"disk": "ssd"},
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high", "podAnnotations": {"pa": "1"}, "podLabels": {"pl": "1"}, "annotations": {"wa": "1"},
        "serviceAccount": {"annotations": {"sa": "1"}, "name": "own"},
        "service": {"type": "LoadBalancer", "annotations": {"lb": "1"}, "loadBalancerSourceRanges": ["10.0.0.0/8"], "port": 443},
        "persistence": {"storageClass": "fast", "size": "20Gi"}, "resources": {"limits": {"memory": "4Gi"}},
        "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}}],
        "test": {"tokenSecret": "token"},
    }  # fmt: skip
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    objects = template(files=[file])
    item = find(objects, "StatefulSet")
    meta, pod = item["spec"]["template"]["metadata"], item["spec"]["template"]["spec"]
    server, side = pod["containers"]
    assert server["image"] == f"registry.example:5000/streamway@{digest}" and server["imagePullPolicy"] == "Always"
    assert pod["imagePullSecrets"] == [{"name": "pull"}] and side["name"] == "side" and pod["initContainers"][0]["name"] == "first"
    assert server["env"][-1] == {"name": "RUST_LOG", "value": "info"} and server["envFrom"][1] == {"secretRef": {"name": "more"}}
    assert server["args"] == ["serve", "-v"] and {"name": "x", "mountPath": "/x"} in server["volumeMounts"]
    for key in ("affinity", "tolerations", "nodeSelector", "topologySpreadConstraints", "priorityClassName"):
        assert pod[key] == values[key], key
    assert meta["annotations"]["pa"] == meta["labels"]["pl"] == item["metadata"]["annotations"]["wa"] == "1"
    assert pod["serviceAccountName"] == "own" and find(objects, "ServiceAccount", "own")["metadata"]["annotations"] == {"sa": "1"}
    service = find(objects, "Service")
    assert service["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"] and service["metadata"]["annotations"] == {"lb": "1"}
    assert service["spec"]["ports"][0]["port"] == 443
    claim = item["spec"]["volumeClaimTemplates"][0]["spec"]
    assert claim["storageClassName"] == "fast" and claim["resources"]["requests"]["storage"] == "20Gi"
    # A value that is not given keeps its default.
    assert server["resources"] == {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}
    for one in objects:
        assert one["metadata"]["name"] == "streamway-more" or one["metadata"]["labels"]["team"] == "a"
    assert "team" not in json.dumps(service["spec"]["selector"]), "a selector cannot be changed"
    bundled = template(*FLEET, "global.imageRegistry=registry.example", "imagePullSecrets[0].name=pull")
    for pod_name, workload in pods({"": [one for one in bundled if one["kind"] != "Pod"]}):
        assert workload["spec"]["imagePullSecrets"] == [{"name": "pull"}], pod_name
        assert all(container["image"].startswith("registry.example/") for container in workload["spec"]["containers"])


def test_a_claim_of_ones_own_or_none():
    mine = find(template("persistence.existingClaim=mine"), "StatefulSet")["spec"]
    assert "volumeClaimTemplates" not in mine
    assert mine["template"]["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "mine"}}]
    none = find(template("persistence.enabled=false"), "StatefulSet")["spec"]
    assert none["template"]["spec"]["volumes"] == [{"name": "data", "emptyDir": {}}]


def test_nats_follows_the_size_of_its_volume_and_of_its_memory():
    objects = template(*FLEET, "nats.bundled.persistence.size=15Gi", "nats.bundled.resources.limits.memory=4Gi")
    assert "max_file_store: 13824MB" in find(objects, "ConfigMap", "streamway-nats")["data"]["nats.conf"]
    (container,) = find(objects, "StatefulSet", "streamway-nats")["spec"]["template"]["spec"]["containers"]
    assert {"name": "GOMEMLIMIT", "value": "3072MiB"} in container["env"]


def test_the_secrets_of_nats_are_made_before_anything_else_or_by_the_user():
    job = find(template(*FLEET), "Job", "streamway-credentials")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    mine = template(*FLEET, "nats.credentials.existingSecret=mine")
    assert not [item for item in mine if item["kind"] in ("Job", "Role", "RoleBinding")]
    assert "mine" in json.dumps(find(mine, "StatefulSet", "streamway-nats")) and "mine" in json.dumps(find(mine, "Deployment"))


def test_helm_test_uses_tls_and_a_token():
    pod = find(template(*TLS, *AUTH, "test.tokenSecret=token", "service.port=443"), "Pod", "streamway-test")["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert env["STREAMWAY_SERVER"] == "https://streamway:443"
        for file in (env["STREAMWAY_CLIENT_TLS_CA"], env["STREAMWAY_TOKEN_FILE"]):
            assert file.rsplit("/", 1)[0] in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_helm_test_leaves_nothing_or_uses_the_topic_that_is_named():
    def steps(*values):
        pod = find(template(*values), "Pod", "streamway-test")["spec"]
        return [(container["name"], container["args"]) for container in (*pod["initContainers"], *pod["containers"])]

    own = steps()
    assert [name for name, _ in own] == ["healthcheck", "create", "publish", "subscribe", "delete"]
    assert all("helm-test-$(POD_UID)" in words for _, words in own[1:]), "Kubernetes puts the pod's id there"
    named = steps("test.topic=smoke")
    assert [name for name, _ in named] == ["healthcheck", "publish", "subscribe"]
    assert all("smoke" in words for _, words in named[1:])
