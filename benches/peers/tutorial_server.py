"""The tutorial's server as it stands in the tutorial: one request, one answer. Started by `peers`."""

import sys
from concurrent import futures

import grpc

# `peers` starts this in the directory of the proto.
sys.path.append(".")
messages, services = grpc.protos_and_services("example.proto")


class ExampleService(services.ExampleServiceServicer):
    def ProcessRequest(self, request, context):
        return messages.Response(message=f"Received message: {request.message}")


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    services.add_ExampleServiceServicer_to_server(ExampleService(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
