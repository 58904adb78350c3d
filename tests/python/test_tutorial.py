"""The classic tutorial's client code, unchanged, against the tutorial's services."""

import queue

import grpc
import my_service_pb2
import my_service_pb2_grpc
from example import example_pb2, example_pb2_grpc

NAMES = ["Alice", "Bob", "Charlie"]


def generate_requests(pb2):
    for name in NAMES:
        yield pb2.MyRequest(name=name)


def test_unary(channel):
    stub = example_pb2_grpc.ExampleServiceStub(channel)
    response = stub.ProcessRequest(example_pb2.Request(message="Hello, gRPC!"))
    assert response.message == "Received message: Hello, gRPC!"
    assert stub.ProcessRequest(example_pb2.Request()).message == "Received message: "


def test_server_streaming(channel):
    stub = example_pb2_grpc.MyServiceStub(channel)
    responses = [r.message for r in stub.ServerStreamingRPCMethod(example_pb2.MyRequest(name="Alice"))]
    assert responses == [f"Response {i} for Alice" for i in (1, 2, 3, 4)]


def test_client_streaming(channel):
    stub = example_pb2_grpc.MyServiceStub(channel)
    response = stub.ClientStreamingRPCMethod(generate_requests(example_pb2))
    assert response.message == "Received 3 requests: Alice, Bob, Charlie"
    assert stub.ClientStreamingRPCMethod(iter(())).message.startswith("Received 0 requests")


def test_bidirectional_streaming_answers_each_request_as_it_comes(channel):
    stub = example_pb2_grpc.MyServiceStub(channel)
    outgoing = queue.Queue()
    call = stub.BidirectionalStreamingRPCMethod(iter(outgoing.get, None), timeout=30)
    for name in NAMES:
        # The next request is sent after this answer, so the server must not wait for the end.
        outgoing.put(example_pb2.MyRequest(name=name))
        assert next(call).message == f"Response for {name}"
    outgoing.put(None)
    assert list(call) == []


def test_the_tutorials_loops_on_its_own_proto_without_a_package(channel):
    stub = my_service_pb2_grpc.MyServiceStub(channel)
    request = my_service_pb2.MyRequest(name="Alice")
    responses = [response.message for response in stub.ServerStreamingRPCMethod(request)]
    assert responses == [f"Response {i} for Alice" for i in (1, 2, 3, 4)]

    # The tutorial's loop iterates over the answer of the client-streaming call. On the wire, one answer and a
    # stream of one answer are the same.
    responses = [r.message for r in stub.ClientStreamingRPCMethod(generate_requests(my_service_pb2))]
    assert responses == ["Received 3 requests: Alice, Bob, Charlie"]

    responses = [r.message for r in stub.BidirectionalStreamingRPCMethod(generate_requests(my_service_pb2))]
    assert responses == [f"Response for {name}" for name in NAMES]


def test_the_bare_path_knows_its_methods_only(channel):
    call = channel.unary_unary("/MyService/Nonsense")
    try:
        call(b"")
        raise AssertionError("there is no such method")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
