package main

// gRPC with all four kinds of calls. Messages are texts; the service is described by hand, for two lines of
// a .proto need no compiler.

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const talkName = "talk.Talk"

var talkService = grpc.ServiceDesc{
	ServiceName: talkName,
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Say",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var question wrapperspb.StringValue
			if err := decode(&question); err != nil {
				return nil, err
			}
			return &question, nil
		},
	}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Repeat", Handler: repeat, ServerStreams: true},
		{StreamName: "Listen", Handler: listen, ClientStreams: true},
		{StreamName: "Chat", Handler: chat, ServerStreams: true, ClientStreams: true},
	},
}

// repeat says back what it is told, as often as the text has characters.
func repeat(_ any, stream grpc.ServerStream) error {
	var question wrapperspb.StringValue
	if err := stream.RecvMsg(&question); err != nil {
		return err
	}
	for range len(question.Value) {
		if err := stream.SendMsg(&question); err != nil {
			return err
		}
	}
	return nil
}

// listen says how many messages it heard.
func listen(_ any, stream grpc.ServerStream) error {
	for count := 0; ; count++ {
		var question wrapperspb.StringValue
		err := stream.RecvMsg(&question)
		if errors.Is(err, io.EOF) {
			return stream.SendMsg(wrapperspb.String(fmt.Sprint(count)))
		}
		if err != nil {
			return err
		}
	}
}

// chat answers each message before the next one comes.
func chat(_ any, stream grpc.ServerStream) error {
	for {
		var question wrapperspb.StringValue
		err := stream.RecvMsg(&question)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.SendMsg(&question); err != nil {
			return err
		}
	}
}

// talkGRPC makes calls of all kinds over one connection.
func talkGRPC(ctx context.Context, t Talk) (Heard, error) {
	connection, err := grpc.NewClient("passthrough:///"+t.target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	heard := Heard{}
	for i := range t.count {
		text := wrapperspb.String(message(i, t.size))
		var answer wrapperspb.StringValue
		if err := connection.Invoke(ctx, "/"+talkName+"/Say", text, &answer); err != nil {
			return nil, fmt.Errorf("unary call %d: %w", i, err)
		}
		if answer.Value == text.Value {
			heard["unary"]++
		}
	}
	for _, kind := range []struct {
		name string
		desc grpc.StreamDesc
		talk func(grpc.ClientStream, Talk) (int, error)
	}{
		{"server-stream", talkService.Streams[0], hear},
		{"client-stream", talkService.Streams[1], tell},
		{"both-streams", talkService.Streams[2], discuss},
	} {
		stream, err := connection.NewStream(ctx, &kind.desc, "/"+talkName+"/"+kind.desc.StreamName)
		if err == nil {
			heard[kind.name], err = kind.talk(stream, t)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind.name, err)
		}
	}
	return heard, nil
}

func hear(stream grpc.ClientStream, t Talk) (int, error) {
	text := message(0, t.count)
	if err := errors.Join(stream.SendMsg(wrapperspb.String(text)), stream.CloseSend()); err != nil {
		return 0, err
	}
	for right := 0; ; {
		var answer wrapperspb.StringValue
		err := stream.RecvMsg(&answer)
		if errors.Is(err, io.EOF) {
			return right, nil
		}
		if err != nil {
			return right, err
		}
		if answer.Value == text {
			right++
		}
	}
}

func tell(stream grpc.ClientStream, t Talk) (int, error) {
	for i := range t.count {
		if err := stream.SendMsg(wrapperspb.String(message(i, t.size))); err != nil {
			return 0, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	var answer wrapperspb.StringValue
	if err := stream.RecvMsg(&answer); err != nil {
		return 0, err
	}
	var heard int
	_, err := fmt.Sscan(answer.Value, &heard)
	return heard, err
}

func discuss(stream grpc.ClientStream, t Talk) (int, error) {
	right := 0
	for i := range t.count {
		text := message(i, t.size)
		if err := stream.SendMsg(wrapperspb.String(text)); err != nil {
			return right, err
		}
		var answer wrapperspb.StringValue
		if err := stream.RecvMsg(&answer); err != nil {
			return right, err
		}
		if answer.Value == text {
			right++
		}
	}
	if err := stream.CloseSend(); err != nil {
		return right, err
	}
	// The end of the stream carries how it went.
	err := stream.RecvMsg(&wrapperspb.StringValue{})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return right, err
}
