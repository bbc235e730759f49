// Classify photos from Go: one photo, an error by its reason, and a stream. See ../README.md.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	pb "dermserve.dev/examples/gen/dermserve/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

//go:generate sh generate.sh

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func request(image []byte) *pb.ClassifyRequest {
	model := &pb.ModelSelector{Name: env("DERMSERVE_MODEL", "mobilenet_v3_small")}
	return &pb.ClassifyRequest{Model: model, Image: image, Tta: pb.TtaMode_TTA_MODE_FULL}
}

// details reads an error's reason, which is stable (docs/errors.md), and after how long trying again makes sense.
func details(from *status.Status) (reason string, retry *errdetails.RetryInfo) {
	reason = from.Code().String()
	for _, detail := range from.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.RetryInfo:
			retry = detail
		}
	}
	return reason, retry
}

// classify tries again as long as the gateway says when, within a deadline.
func classify(ctx context.Context, client pb.ClassifierClient, image []byte) (*pb.ClassifyResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		answer, err := client.Classify(ctx, request(image))
		reason, retry := details(status.Convert(err))
		if deadline, _ := ctx.Deadline(); err == nil || retry == nil || time.Until(deadline) < retry.RetryDelay.AsDuration() {
			return answer, err
		}
		log.Printf("%s: trying again in %v", reason, retry.RetryDelay.AsDuration())
		time.Sleep(retry.RetryDelay.AsDuration())
	}
}

// show prints an answer in the order in which a person should read it (docs/answers.md); the notice has the disclaimer.
func show(answer *pb.ClassifyResponse) {
	level := ""
	if answer.Malignancy != nil { // there is none for a rejected photo
		level = answer.Malignancy.Level.String()
	}
	fmt.Println(answer.Verdict, level, answer.Reasons)
	for _, class := range answer.Classes {
		if class.Code == answer.NamedClass {
			fmt.Printf("%s %.0f %%\n", class.CommonName, 100*class.Probability)
		}
	}
	fmt.Println(answer.Notice)
}

func stream(ctx context.Context, client pb.ClassifierClient, images [][]byte) error {
	calls, err := client.ClassifyStream(ctx)
	if err != nil {
		return err
	}
	go func() { // sending and receiving at the same time: answers come while photos are sent
		for index, image := range images {
			if calls.Send(&pb.ClassifyStreamRequest{Id: fmt.Sprint(index), Request: request(image)}) != nil {
				return // Recv has the error
			}
		}
		calls.CloseSend()
	}()
	for {
		answer, err := calls.Recv()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		} else if failed := answer.GetError(); failed != nil {
			reason, _ := details(status.FromProto(failed))
			fmt.Println("stream:", answer.Id, reason)
		} else {
			fmt.Println("stream:", answer.Id, answer.GetResponse().Verdict)
		}
	}
}

func run(ctx context.Context, files []string) error {
	secure := insecure.NewCredentials()
	if ca := os.Getenv("DERMSERVE_CA"); ca != "" {
		var err error
		if secure, err = credentials.NewClientTLSFromFile(ca, ""); err != nil {
			return err
		}
	}
	connection, err := grpc.NewClient(env("DERMSERVE_SERVER", "127.0.0.1:50051"), grpc.WithTransportCredentials(secure))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pb.NewClassifierClient(connection)
	images := [][]byte{}
	for _, file := range files {
		image, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		images = append(images, image)
	}
	answer, err := classify(ctx, client, images[0])
	if err != nil {
		return err
	}
	show(answer)
	if _, err := classify(ctx, client, []byte("this is no photo")); err != nil {
		reason, _ := details(status.Convert(err))
		fmt.Println("refused:", reason)
	}
	return stream(ctx, client, append(images, []byte("this is no photo")))
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: go run . PHOTO...")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		reason, _ := details(status.Convert(err))
		log.Fatalf("%s: %v", reason, err)
	}
}
