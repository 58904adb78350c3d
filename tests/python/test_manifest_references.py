"""What the objects of the manifests refer to and select: all of it is there, and nothing selects the pods of another."""

import pytest
from manifests import OVERLAYS, WORKLOADS, each, rendered, template  # noqa: F401 (rendered is a fixture)


# Created by hand as docs/deploy.md says, by cert-manager, and by the Job of the fleet.
FOREIGN_SECRETS = {"streamway-auth", "streamway-tls", "streamway-nats-tls", "streamway-nats"}


def test_what_is_referred_to_is_there(rendered):
    for name, objects in rendered.items():
        ids = {(item["kind"], item["metadata"]["name"]) for item in objects}
        services = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Service"}
        workloads = [item for item in objects if item["kind"] in WORKLOADS]
        for item in workloads:
            pod = template(item)["spec"]
            labels = template(item)["metadata"]["labels"]
            if "Job" not in item["kind"]:
                assert item["spec"]["selector"]["matchLabels"].items() <= labels.items(), name
            # A CronJob that calls no API server has the namespace's account, without a token.
            if item["kind"] != "CronJob":
                assert ("ServiceAccount", pod["serviceAccountName"]) in ids, name
            if item["kind"] == "StatefulSet":
                assert services[item["spec"]["serviceName"]]["spec"]["clusterIP"] == "None", name
                retention = item["spec"]["persistentVolumeClaimRetentionPolicy"]
                assert retention == {"whenDeleted": "Retain", "whenScaled": "Retain"}, name
            volumes = {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", ())}
            for volume in pod.get("volumes", ()):
                volumes.add(volume["name"])
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in ids, name
                if "secret" in volume:
                    assert volume["secret"]["secretName"] in FOREIGN_SECRETS, name
                    assert volume["secret"]["defaultMode"] == 0o400, name
                for source in volume.get("projected", {}).get("sources", ()):
                    # Every namespace has a ConfigMap with the CA of the cluster.
                    config = source.get("configMap", {"name": "kube-root-ca.crt"})["name"]
                    assert config == "kube-root-ca.crt" or ("ConfigMap", config) in ids, name
                    assert source.get("secret", {"name": "streamway-nats"})["name"] in FOREIGN_SECRETS, name
            assert {mount["name"] for mount in pod["containers"][0].get("volumeMounts", ())} == volumes, name
        for service in services.values():
            (item,) = [
                item
                for item in workloads
                if "Job" not in item["kind"] and service["spec"]["selector"].items() <= template(item)["metadata"]["labels"].items()
            ]
            ports = {port["name"] for port in item["spec"]["template"]["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, name
            assert all("appProtocol" in port for port in service["spec"]["ports"]), name
        for item in objects:
            if item["kind"] == "ServiceMonitor":
                wanted = item["spec"]["selector"]["matchLabels"].items()
                (service,) = [one for one in services.values() if wanted <= one["metadata"]["labels"].items()]
                ports = {port["name"] for port in service["spec"]["ports"]}
                assert {endpoint["port"] for endpoint in item["spec"]["endpoints"]} <= ports, name
            if item["kind"] == "GRPCRoute":
                for backend in (backend for rule in item["spec"]["rules"] for backend in rule["backendRefs"]):
                    ports = {port["port"] for port in services[backend["name"]]["spec"]["ports"]}
                    assert backend["port"] in ports, name
            if item["kind"] == "PodDisruptionBudget":
                assert item["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", name
                assert item["spec"]["maxUnavailable"] == 1, name


def test_nothing_is_allowed_but_what_is_needed(rendered):
    for name, objects in rendered.items():
        policies = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "NetworkPolicy"}
        if "streamway" not in policies:
            continue
        for item in (item for item in objects if item["kind"] in WORKLOADS):
            labels = template(item)["metadata"]["labels"].items()
            own = [spec for spec in policies.values() if spec["podSelector"]["matchLabels"].items() <= labels]
            # The backup reaches the Service, wherever it is, and nothing reaches the backup, which has no port.
            assert own or item["metadata"]["name"] == "streamway-backup", name
            assert all(set(spec["policyTypes"]) == {"Ingress", "Egress"} for spec in own), name
            ports = template(item)["spec"]["containers"][0].get("ports", ())
            ports = {port[key] for port in ports for key in ("name", "containerPort")}
            for rule in (rule for spec in own for rule in spec.get("ingress", ())):
                assert all(port["port"] in ports for port in rule["ports"]), name
    policies = {item["metadata"]["name"]: item["spec"] for item in rendered["overlays/fleet"] if item["kind"] == "NetworkPolicy"}
    for own in (policies["streamway"], policies["streamway-nats"]):
        for rule in own["egress"]:
            # DNS may run anywhere.
            assert "to" in rule or {port["port"] for port in rule["ports"]} <= {53, 5353}
    # The Job can reach the API server, and no pod can reach the Job.
    job = policies["streamway-credentials"]
    assert "ingress" not in job and [port["port"] for port in job["egress"][0]["ports"]] == [443, 6443, 8443]


def test_both_overlays_have_the_network_policy(rendered):
    for overlay in OVERLAYS:
        names = {item["metadata"]["name"] for item in rendered[f"overlays/{overlay}"] if item["kind"] == "NetworkPolicy"}
        assert "streamway" in names, overlay
        assert ("streamway-nats" in names) == (overlay == "fleet")


def selectors(value, path=""):
    """Each selector of pods in an object: its path, and the labels that it asks for."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from selectors(entry, f"{path}/{index}")
    elif isinstance(value, dict):
        for key, entry in value.items():
            if key in ("selector", "podSelector", "labelSelector"):
                yield f"{path}/{key}", entry.get("matchLabels", entry)
            else:
                yield from selectors(entry, f"{path}/{key}")


def selected(objects, labels):
    """Names of the workloads whose pods have these labels."""
    found = (item for item in objects if item["kind"] in WORKLOADS)
    found = (item for item in found if labels.items() <= template(item)["metadata"]["labels"].items())
    return {(item["kind"], item["metadata"]["name"]) for item in found}


def crossing(one, other):
    """Selectors of `one` that select the pods of another workload in a namespace that has the objects of both."""
    own = {(item["kind"], item["metadata"]["name"]) for item in one}
    others = [item for item in other if (item["kind"], item["metadata"]["name"]) not in own]
    for item in one:
        # A Prometheus operator's selector is one of Services.
        if item["kind"] == "ServiceMonitor":
            continue
        for path, labels in selectors(item["spec"] if "spec" in item else {}):
            if selected(others, labels) and not reaches_nats(item, labels):
                yield f"{item['kind']} {item['metadata']['name']} {path}"


def reaches_nats(item, labels):
    """Tells whether this is the way to NATS in the policy of a server, which may have none."""
    return (item["kind"], item["metadata"]["name"]) == ("NetworkPolicy", "streamway") and labels == {
        "app.kubernetes.io/name": "streamway-nats", "app.kubernetes.io/instance": "streamway"
    }


def test_every_selector_selects_the_pods_of_one_workload(rendered):
    for name, item in each(rendered):
        if item["kind"] == "ServiceMonitor":
            continue
        for path, labels in selectors(item.get("spec", {})):
            assert len(selected(rendered[name], labels)) == 1 or reaches_nats(item, labels), f"{name}: {item['kind']} {path}"


def test_no_selector_selects_the_pods_of_another_overlay_in_its_namespace(rendered):
    for name, one in rendered.items():
        for beside, other in rendered.items():
            assert not list(crossing(one, other)), f"{name} beside {beside}"


@pytest.mark.parametrize("labels", [{}, {"app.kubernetes.io/name": "streamway"}, {"app.kubernetes.io/part-of": "streamway"}])
def test_a_selector_that_is_too_wide_is_seen(rendered, labels):
    service = {"kind": "Service", "metadata": {"name": "streamway"}, "spec": {"selector": labels}}
    one = [item for item in rendered["overlays/single"] if item["kind"] != "Service"]
    assert list(crossing([*one, service], rendered["overlays/fleet"])) == ["Service streamway /selector"]
