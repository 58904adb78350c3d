"""Many quiet subscriptions at once, on a few connections."""

import asyncio

import grpc
import load  # noqa: F401 (the stubs)
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc

CHANNELS = 4


class Quiet:
    """A subscription from the tail that is open from its first heartbeat until a record comes."""

    def __init__(self):
        self.opened = asyncio.Event()
        self.messages = 0
        self.record = None

    async def follow(self, stub, topic):
        # The first heartbeat comes soon and shows that the stream is open; later ones come every 15 s.
        request = pb.SubscribeRequest(topic=topic, boundary=pb.BOUNDARY_LATEST)
        while True:
            try:
                return await self.read(stub.Subscribe(request))
            except grpc.aio.AioRpcError as error:
                # Retries as every client does. A stream that was open must stay open.
                if self.opened.is_set() or error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.5)

    async def read(self, call):
        async for answer in call:
            self.messages += 1
            self.opened.set()
            if answer.batches:
                self.record = answer.batches[0].records[0].value
                return


async def hold(address, topic, count, seconds):
    """Opens `count` streams at `address`, waits `seconds`, and publishes one record, which all streams must get."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CHANNELS)
    ]
    stubs = [rpc.StreamServiceStub(channel) for channel in channels]
    streams = [Quiet() for _ in range(count)]
    tasks = [
        asyncio.create_task(stream.follow(stubs[n % CHANNELS], topic)) for n, stream in enumerate(streams)
    ]
    try:
        opening = asyncio.gather(*(stream.opened.wait() for stream in streams))
        done, _ = await asyncio.wait([opening, *tasks], timeout=90, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
        assert opening in done, f"{sum(s.opened.is_set() for s in streams)} of {count} streams opened at {address}"
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
        assert not done, f"a quiet stream at {address} ended"
        await stubs[0].Publish(pb.PublishRequest(topic=topic, records=[pb.Record(value=b"end")]), timeout=10)
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert all(stream.record == b"end" for stream in streams)
        return min(stream.messages for stream in streams)
    finally:
        for task in tasks:
            task.cancel()
        for channel in channels:
            await channel.close()


async def hold_all(addresses, count, seconds):
    """The same at every address at the same time, each with a topic of its own."""
    return await asyncio.gather(
        *(hold(address, f"quiet-{name}", count, seconds) for name, address in addresses.items())
    )
