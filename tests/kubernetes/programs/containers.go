package main

import (
	"context"
	"fmt"
	"os"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// The namespace of containerd in which the kubelet works.
const namespace = "k8s.io"

func client(socket string) (*containerd.Client, context.Context, error) {
	client, err := containerd.New(socket)
	return client, namespaces.WithNamespace(context.Background(), namespace), err
}

// Imports the images of a `docker save` file.
func load(socket, file string) error {
	client, ctx, err := client(socket)
	if err != nil {
		return err
	}
	defer client.Close()
	tar, err := os.Open(file)
	if err != nil {
		return err
	}
	defer tar.Close()
	images, err := client.Import(ctx, tar)
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := containerd.NewImage(client, image).Unpack(ctx, ""); err != nil {
			return err
		}
		fmt.Println(image.Name)
	}
	return nil
}

// Prints the process of each running container.
func pids(socket string) error {
	client, ctx, err := client(socket)
	if err != nil {
		return err
	}
	defer client.Close()
	containers, err := client.Containers(ctx)
	if err != nil {
		return err
	}
	for _, container := range containers {
		if task, err := container.Task(ctx, nil); err == nil {
			fmt.Println(task.Pid())
		}
	}
	return nil
}
