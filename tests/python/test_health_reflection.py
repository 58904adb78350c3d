"""The health protocol and reflection, with their stock clients."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

Status = health_pb2.HealthCheckResponse
SERVICES = [
    "streamway.v1.StreamService",
    "streamway.v1.TopicService",
    "streamway.v1.GroupService",
    "example.ExampleService",
    "example.MyService",
]


@pytest.fixture
def health(channel):
    return health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("service", ["", "liveness", "readiness", "publishing", *SERVICES])
def test_check_and_watch(health, service):
    request = health_pb2.HealthCheckRequest(service=service)
    assert health.Check(request, timeout=10).status == Status.SERVING
    watch = health.Watch(request, timeout=10)
    assert next(watch).status == Status.SERVING
    watch.cancel()


def test_an_unknown_service(health):
    request = health_pb2.HealthCheckRequest(service="nonsense.Service")
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(request, timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    # By the protocol a watch of an unknown service stays open, as the service may appear.
    watch = health.Watch(request, timeout=10)
    assert next(watch).status == Status.SERVICE_UNKNOWN
    watch.cancel()


def test_the_admin_port_answers_health_too(server):
    with grpc.insecure_channel(server.admin) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "liveness", "readiness"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == Status.SERVING


def test_reflection_lists_and_describes_every_service(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    listed = set(database.get_services())
    assert set(SERVICES) <= listed, listed
    assert "grpc.health.v1.Health" in listed
    pool = DescriptorPool(database)
    method = pool.FindServiceByName("streamway.v1.StreamService").FindMethodByName("Exchange")
    assert method.client_streaming and method.server_streaming


def test_a_call_with_reflection_alone(channel):
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName("streamway.v1.StreamService")
    publish = service.FindMethodByName("Publish")
    request = GetMessageClass(publish.input_type)(topic="reflected", records=[{"value": b"found"}])
    call = channel.unary_unary(
        f"/{service.full_name}/{publish.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(publish.output_type).FromString,
    )
    assert call(request, timeout=10).receipt.next.offset == 1


def test_reflection_can_be_turned_off(tmp_path):
    from conftest import Server

    server = Server(tmp_path, "--reflection", "false")
    try:
        with server.channel() as channel, pytest.raises(grpc.RpcError) as caught:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    finally:
        server.kill9()
