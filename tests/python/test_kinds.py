"""The four kinds of call with grpcio and stubs generated from the protos."""

import queue

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc
from streamway.v1 import topic_pb2, topic_pb2_grpc


@pytest.fixture
def stub(channel):
    return rpc.StreamServiceStub(channel)


def history(stub, topic):
    limit = pb.ReadLimit(stop_at_tail=True)
    request = pb.SubscribeRequest(topic=topic, boundary=pb.BOUNDARY_EARLIEST, limit=limit)
    records = []
    for message in stub.Subscribe(request, timeout=30):
        for batch in message.batches:
            assert batch.first_offset == len(records)
            records.extend(batch.records)
        assert message.next.offset == len(records) and message.next.epoch
    return records


def test_publish_and_subscribe(stub):
    records = [
        pb.Record(key=b"\0\xff", value=b"v" * 50_000, headers={"h": "ä", "": ""}, event_time=Timestamp(seconds=-9)),
        pb.Record(),
    ]
    receipt = stub.Publish(pb.PublishRequest(topic="py-unary", records=records), timeout=10).receipt
    assert (receipt.first_offset, receipt.next.offset, receipt.duplicate) == (0, 2, False)
    assert history(stub, "py-unary") == records


def test_a_client_may_compress(stub):
    record = pb.Record(value=b"again and again " * 10_000)
    gzip = grpc.Compression.Gzip
    for _ in range(2):
        stub.Publish(pb.PublishRequest(topic="py-gzip", records=[record]), timeout=10, compression=gzip)
    request = pb.SubscribeRequest(
        topic="py-gzip", boundary=pb.BOUNDARY_EARLIEST, limit=pb.ReadLimit(stop_at_tail=True)
    )
    # grpcio hides the compression of answers, which the Rust tests check.
    for asked in (gzip, None):
        call = stub.Subscribe(request, timeout=30, compression=asked)
        assert [r for message in call for batch in message.batches for r in batch.records] == [record] * 2


def test_ingest(stub):
    def requests():
        for i in range(300):
            topic = "py-ingest" if i == 0 else ""
            yield pb.IngestRequest(publish=pb.PublishRequest(topic=topic, records=[pb.Record(value=b"%d" % i)]))

    summary = stub.Ingest(requests(), timeout=60)
    assert (summary.batches, summary.records, summary.next.offset) == (300, 300, 300)
    assert [record.value for record in history(stub, "py-ingest")] == [b"%d" % i for i in range(300)]


def test_exchange_with_deliveries(stub):
    outgoing = queue.Queue()
    subscribe = pb.SubscribeRequest(boundary=pb.BOUNDARY_EARLIEST)
    outgoing.put(pb.ExchangeRequest(open=pb.Open(topic="py-exchange", subscribe=subscribe)))
    for number in range(1, 201):
        publish = pb.PublishRequest(records=[pb.Record(value=b"%d" % number)])
        outgoing.put(pb.ExchangeRequest(publish=pb.NumberedPublish(number=number, publish=publish)))
    numbers, values = [], []
    call = stub.Exchange(iter(outgoing.get, None), timeout=60)
    for message in call:
        numbers += [receipt.number for receipt in message.receipts]
        values += [record.value for batch in message.delivery.batches for record in batch.records]
        if len(numbers) == 200 and len(values) == 200:
            break
    outgoing.put(None)
    call.cancel()
    assert numbers == list(range(1, 201))
    assert values == [b"%d" % number for number in range(1, 201)]


def test_exchange_with_merged_receipts(stub):
    def requests():
        yield pb.ExchangeRequest(open=pb.Open(topic="py-merged", merge_receipts=True))
        for number in range(1, 1001):
            publish = pb.PublishRequest(records=[pb.Record(value=b"a"), pb.Record(value=b"b")])
            yield pb.ExchangeRequest(publish=pb.NumberedPublish(number=number, publish=publish))

    number, offset, receipts = 0, 0, 0
    for message in stub.Exchange(requests(), timeout=60):
        for merged in message.receipts:
            assert merged.number > number and merged.receipt.first_offset == offset
            assert merged.receipt.next.offset == 2 * merged.number
            number, offset, receipts = merged.number, merged.receipt.next.offset, receipts + 1
    assert (number, offset) == (1000, 2000)
    assert receipts < 1000, "none was merged"


def test_live_deliveries_and_cancel(stub):
    call = stub.Subscribe(pb.SubscribeRequest(topic="py-live"), timeout=60)
    assert next(call).notice == pb.NOTICE_CAUGHT_UP
    stub.Publish(pb.PublishRequest(topic="py-live", records=[pb.Record(value=b"now")]), timeout=10)
    assert next(call).batches[0].records[0].value == b"now"
    call.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() == grpc.StatusCode.CANCELLED


def test_topics(channel):
    stub = topic_pb2_grpc.TopicServiceStub(channel)
    made = stub.CreateTopic(topic_pb2.CreateTopicRequest(topic=topic_pb2.Topic(name="py-topic"))).topic
    assert stub.GetTopic(topic_pb2.GetTopicRequest(name="py-topic")).topic == made
    listed = stub.ListTopics(topic_pb2.ListTopicsRequest(prefix="py-topic")).topics
    assert list(listed) == [made]
    stub.DeleteTopic(topic_pb2.DeleteTopicRequest(name="py-topic", epoch=made.epoch))
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetTopic(topic_pb2.GetTopicRequest(name="py-topic"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_errors_carry_details_a_stock_client_can_read(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Publish(pb.PublishRequest(topic="Not A Topic", records=[pb.Record()]), timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = error_details(caught.value)
    info = details[error_details_pb2.ErrorInfo.DESCRIPTOR.full_name]
    assert (info.reason, info.domain, info.metadata["side_effects"]) == ("INVALID_FIELD", "streamway", "none")
    violations = details[error_details_pb2.BadRequest.DESCRIPTOR.full_name].field_violations
    assert violations[0].field == "topic"


def error_details(error):
    """The details by type name, unpacked from `grpc-status-details-bin`."""
    from google.rpc import status_pb2

    trailers = {key: value for key, value in error.trailing_metadata()}
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    found = {}
    for detail in status.details:
        assert isinstance(detail, any_pb2.Any)
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            if detail.Is(kind.DESCRIPTOR):
                message = kind()
                detail.Unpack(message)
                found[kind.DESCRIPTOR.full_name] = message
    return found
