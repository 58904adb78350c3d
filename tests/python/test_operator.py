"""AdminService with grpcio: what clients cannot break, and what a list costs."""

import re
import threading

import grpc
import pytest
from conftest import Server
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from streamway.v1 import admin_pb2 as pb
from streamway.v1 import admin_pb2_grpc as rpc
from streamway.v1 import stream_pb2, stream_pb2_grpc

NAME = "streamway.v1.AdminService"
# A connection of its own for each channel.
OWN = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture
def admin(channel):
    return rpc.AdminServiceStub(channel)


def pages(method, request, field, size=0):
    """Reads all pages, and returns what they hold with the number of pages."""
    found, count = [], 0
    while True:
        request.page_size = size
        page = method(request, timeout=30)
        assert page.replica.host and re.fullmatch("[0-9a-f]{8}", page.replica.instance)
        assert page.ByteSize() < 64 << 10
        found.extend(getattr(page, field))
        count += 1
        if not page.next_page_token:
            return found, count
        request.page_token = page.next_page_token


def reason(error):
    status = status_pb2.Status()
    status.ParseFromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert isinstance(status.details[0], any_pb2.Any) and status.details[0].Unpack(info)
    return info


def subscription(channel, topic="busy"):
    """A subscription that has begun, with its iterator."""
    stream = stream_pb2_grpc.StreamServiceStub(channel).Subscribe(stream_pb2.SubscribeRequest(topic=topic))
    next(stream)
    return stream


def test_health_and_reflection_name_the_service(channel):
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert NAME in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_thousands_of_calls_are_listed_exactly_once_and_ended_together(server, channel, admin):
    with grpc.insecure_channel(server.listen, options=OWN) as other:
        stub = stream_pb2_grpc.StreamServiceStub(other)
        streams = [stub.Subscribe(stream_pb2.SubscribeRequest(topic="busy")) for _ in range(5000)]
        for stream in streams:
            next(stream)
        for size in (0, 1000, 2**32 - 1):
            calls, count = pages(admin.ListCalls, pb.ListCallsRequest(), "calls", size)
            ids = [call.id for call in calls if call.method.endswith("Subscribe")]
            assert (len(ids), len(set(ids))) == (5000, 5000) and count > 5000 * 64 // (32 << 10), count
        [connection] = {call.connection_id for call in calls if call.method.endswith("Subscribe")}
        done = admin.EndCalls(pb.EndCallsRequest(connection_id=connection), timeout=30)
        assert (done.ended_calls, done.closed_connections) == (5000, 1)
        for stream in streams:
            with pytest.raises(grpc.RpcError) as ended:
                list(stream)
            assert ended.value.code() == grpc.StatusCode.PERMISSION_DENIED, ended.value
            assert reason(ended.value).reason == "DISCONNECTED_BY_OPERATOR"


def test_a_list_goes_on_while_clients_come_and_go(server, channel, admin):
    stays = subscription(channel)
    stop, failed = threading.Event(), []

    def come_and_go():
        while not stop.is_set():
            with grpc.insecure_channel(server.listen, options=OWN) as own:
                try:
                    subscription(own).cancel()
                except grpc.RpcError as error:
                    failed.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(16)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            calls, _ = pages(admin.ListCalls, pb.ListCallsRequest(), "calls", 7)
            mine = [call for call in calls if call.peer_address and call.age.ToTimedelta().total_seconds() >= 0]
            assert len(mine) == len(calls)
            connections, _ = pages(admin.ListConnections, pb.ListConnectionsRequest(), "connections", 7)
            assert len({connection.id for connection in connections}) == len(connections)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    stays.cancel()


def test_the_own_connection_is_ended_after_the_answer(server):
    with grpc.insecure_channel(server.listen, options=OWN) as own:
        admin = rpc.AdminServiceStub(own)
        [me] = [c for c in admin.ListCalls(pb.ListCallsRequest()).calls if c.method == f"{NAME}/ListCalls"]
        for _ in range(2):
            # A client that is still connected by it is told; the next call is on a new connection.
            try:
                done = admin.EndCalls(pb.EndCallsRequest(connection_id=me.connection_id), timeout=30)
                assert done.closed_connections == 1
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.NOT_FOUND, error
        assert admin.ListCalls(pb.ListCallsRequest(), timeout=30).calls


@pytest.mark.parametrize(
    "request_",
    [
        pb.EndCallsRequest(),
        pb.EndCallsRequest(principal="x", ban_duration=Duration(seconds=0)),
        pb.EndCallsRequest(principal="x", ban_duration=Duration(nanos=999_999_999)),
        pb.EndCallsRequest(principal="x", ban_duration=Duration(seconds=2**63 - 1, nanos=2**31 - 1)),
        pb.EndCallsRequest(principal="x", ban_duration=Duration(seconds=-(2**63))),
        pb.EndCallsRequest(principal="anonymous", ban_duration=Duration(seconds=1)),
        pb.EndCallsRequest(principal="x" * 513),
        pb.EndCallsRequest(address="300.1.1.1"),
        pb.EndCallsRequest(address="127.0.0.1:50051"),
    ],
    ids=str,
)
def test_bad_requests_change_nothing(admin, request_):
    with pytest.raises(grpc.RpcError) as refused:
        admin.EndCalls(request_, timeout=30)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason(refused.value).metadata["side_effects"] == "none"
    assert not admin.ListBans(pb.ListBansRequest(), timeout=30).bans


def test_a_principal_of_strange_bytes_is_banned_listed_and_recorded_escaped(server, admin):
    strange = "\x1b[2J\u202e\n\"'\\\0ü"
    for _ in range(2):
        done = admin.EndCalls(pb.EndCallsRequest(principal=strange, ban_duration=Duration(seconds=86400)), timeout=30)
        assert (done.ended_calls, done.ban.principal) == (0, strange)
    [ban], _ = pages(admin.ListBans, pb.ListBansRequest(), "bans", 1)
    assert ban.principal == strange and 86390 < ban.remaining.seconds <= 86400
    assert admin.LiftBan(pb.LiftBanRequest(principal=strange), timeout=30).lifted
    assert not admin.LiftBan(pb.LiftBanRequest(principal=strange), timeout=30).lifted
    lines = [line for line in server.log if "calls.end" in line]
    assert lines and "\\\\u{202e}" in lines[-1] and "\u202e" not in "".join(server.log)


def test_there_are_at_most_1024_bans_and_all_are_listed(admin):
    second = Duration(seconds=3600)
    name = "n" * 500
    for i in range(1024):
        admin.EndCalls(pb.EndCallsRequest(principal=f"{name}{i:04}", ban_duration=second), timeout=30)
    with pytest.raises(grpc.RpcError) as refused:
        admin.EndCalls(pb.EndCallsRequest(address="::1", ban_duration=second), timeout=30)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    bans, count = pages(admin.ListBans, pb.ListBansRequest(), "bans", 1000)
    assert len({ban.principal for ban in bans}) == 1024 and count > 10
    for ban in bans:
        assert admin.LiftBan(pb.LiftBanRequest(principal=ban.principal), timeout=30).lifted


def test_clients_can_be_ended_while_the_server_drains(tmp_path):
    server = Server(tmp_path, "--drain-delay", "3s")
    with server.channel() as channel, grpc.insecure_channel(server.listen, options=OWN) as own:
        stream, admin = subscription(channel), rpc.AdminServiceStub(own)
        admin.ListCalls(pb.ListCallsRequest(), timeout=30)
        server.process.terminate()
        calls = admin.ListCalls(pb.ListCallsRequest(), timeout=30).calls
        [call] = [call for call in calls if call.method.endswith("Subscribe")]
        admin.EndCalls(pb.EndCallsRequest(call_id=call.id), timeout=30)
        with pytest.raises(grpc.RpcError) as ended:
            for _ in stream:
                pass
        assert ended.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert server.process.wait(timeout=15) == 0
    server.shown.ended()
