package main

// gRPC: one method that takes a text and returns one, with the messages of the service that the suite
// knows, `proto.EchoTestService`. On the wire its request and its answer are both a StringValue.

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	echoService = "proto.EchoTestService"
	echoMethod  = "/" + echoService + "/Echo"
)

func serveGRPC(listener net.Listener, port int) error {
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: echoService,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Echo",
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var question wrapperspb.StringValue
				if err := decode(&question); err != nil {
					return nil, err
				}
				return wrapperspb.String(grpcFields(ctx, port, question.Value).String()), nil
			},
		}},
	}, struct{}{})
	return server.Serve(listener)
}

func grpcFields(ctx context.Context, port int, message string) Fields {
	fields := Fields{Port: port, Protocol: "GRPC", URL: echoMethod, Message: message, Headers: http.Header{}}
	if caller, ok := peer.FromContext(ctx); ok {
		fields.From = caller.Addr.String()
	}
	data, _ := metadata.FromIncomingContext(ctx)
	for name, values := range data {
		// What begins with a colon is HTTP's own.
		if name == ":authority" {
			fields.Host = strings.Join(values, ",")
		} else if !strings.HasPrefix(name, ":") {
			fields.Headers[http.CanonicalHeaderKey(name)] = values
		}
	}
	return fields
}

// callGRPC asks as often as wanted over one connection, so that who balances has to do it by request.
func (c *Client) callGRPC(ctx context.Context, answer func(string) error) error {
	connection, err := grpc.NewClient("passthrough:///"+withPort(c.url.Host, "7070"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	for name, values := range c.headers {
		for _, value := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(name), value)
		}
	}
	for range c.count {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		var reply wrapperspb.StringValue
		err := connection.Invoke(ctx, echoMethod, wrapperspb.String(c.message), &reply)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", c.url, err)
		}
		if err := answer(bodyLines(reply.Value)); err != nil {
			return err
		}
	}
	return nil
}
