// Publishes one batch to a topic, then reads the topic from its oldest record to its tail.
package main

//go:generate buf generate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "example.com/greetings/streamway/v1"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: go run . TARGET TOPIC")
	}
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := run(ctx, pb.NewStreamServiceClient(connection), os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, client pb.StreamServiceClient, topic string) error {
	answer, err := client.Publish(ctx, &pb.PublishRequest{
		Topic:     topic,
		RequestId: rand.Text(), // makes it safe to send the request again
		Records:   []*pb.Record{{Key: []byte("en"), Value: []byte("hello")}, {Key: []byte("fr"), Value: []byte("bonjour")}},
	})
	if err != nil {
		return err
	}
	fmt.Printf("stored at offset %d, next is %d\n", answer.Receipt.FirstOffset, answer.Receipt.Next.Offset)

	stream, err := client.Subscribe(ctx, &pb.SubscribeRequest{
		Topic: topic,
		Start: &pb.SubscribeRequest_Boundary{Boundary: pb.Boundary_BOUNDARY_EARLIEST},
		Limit: &pb.ReadLimit{StopAtTail: true}, // without a limit it goes on, live
	})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, batch := range message.Batches {
			for i, record := range batch.Records {
				fmt.Println(batch.FirstOffset+uint64(i), string(record.Key), string(record.Value))
			}
		}
	}
}
