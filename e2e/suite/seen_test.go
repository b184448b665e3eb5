package suite

// What an operator sees of single requests: access logs, live requests, and why they go where they go.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis.dev/e2e/suite/bed"
)

// What a proxy says of one request or connection, as far as this asks.
type entry struct {
	Kind, Direction, Source, Destination, Path, Service, Reason string
	Status                                                      int
	Posture                                                     struct{ Class, Group string }
}

func entries(t *testing.T, text string) []entry {
	t.Helper()
	var all []entry
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, `{"time":`) {
			continue
		}
		var one entry
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		all = append(all, one)
	}
	return all
}

// A pod that wants an access log gets one, of both directions, and no other has any.
func TestAccessLogsShowWhatProtectedARequest(t *testing.T) {
	const ns = "e2e-seen"
	server := lonely(t, ns, map[string]string{"trellis.dev/access-log": "enabled"})
	apply(t, manifest(t, podOf(ns, func(metadata, _ map[string]any) {
		metadata["name"] = "asker"
		metadata["annotations"] = map[string]string{"trellis.dev/access-log": "errors"}
	})))
	asker := ready(t, ns, "asker")
	ask(t, asker, "--count=3", "--fresh", "tcp://"+hostPort(server.Status.PodIP, 7000))
	log := func(pod string) []entry {
		text, err := cluster.Run(t.Context(), "logs", "-n", ns, pod, "-c", "trellis-proxy")
		if err != nil {
			t.Fatal(err)
		}
		return entries(t, text)
	}
	var came []entry
	// A line is written when its connection has ended, which the asker does not wait for.
	eventually(t, "a line for each connection", func() error {
		came = slices.DeleteFunc(log("case"), func(one entry) bool {
			// Whoever once knew this address as another pod's is turned away, and written down as well.
			return one.Reason != "" && one.Posture.Class == ""
		})
		if len(came) != 3 {
			return fmt.Errorf("%d lines of 3 connections: %+v", len(came), came)
		}
		return nil
	})
	for _, one := range came {
		if one.Kind != "connection" || one.Direction != "inbound" || !strings.Contains(one.Source, "/ns/"+ns+"/sa/") ||
			one.Posture.Class != "pq" || one.Posture.Group != postQuantum {
			t.Errorf("%+v", one)
		}
	}
	if failed := log("asker"); len(failed) > 0 {
		t.Errorf("nothing failed, and there are %+v", failed)
	}
}

// tap and diag reach the admin port, which only the pod itself can, by a port forward.
func TestTapAndDiagReachAProxy(t *testing.T) {
	client := pod(t, "shop", "client")
	name := "pod/" + client.Metadata.Name
	type result struct {
		stdout, stderr string
		err            error
	}
	tapped := make(chan result, 1)
	go func() {
		stdout, stderr, err := mesh.Trellis(t.Context(), "tap", name, "-n", "shop", "--to", "shop/web", "--count=2", "--for=60", "--json")
		tapped <- result{stdout, stderr, err}
	}()
	var seen result
	eventually(t, "two requests that are seen", func() error {
		ask(t, client, "--count=5", "http://web/healthz")
		select {
		case seen = <-tapped:
			return nil
		default:
			return errors.New("nothing yet")
		}
	})
	if seen.err != nil {
		t.Fatalf("%v\n%s", seen.err, seen.stderr)
	}
	shown := entries(t, seen.stdout)
	if len(shown) != 2 || shown[0].Path != "/healthz" || shown[0].Posture.Class != "pq" || shown[0].Status != 200 {
		t.Errorf("%+v", shown)
	}
	stdout, stderr, err := mesh.Trellis(t.Context(), "diag", name, "-n", "shop", "--to", "http://web/healthz")
	if err != nil {
		t.Fatalf("%v\n%s%s", err, stdout, stderr)
	}
	for _, want := range []string{"is Service shop/web:80", "by tunnel"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in:\n%s", want, stdout)
		}
	}
	// From another pod nobody gets there.
	address := "http://" + hostPort(pod(t, "shop", "web").Status.PodIP, 15000) + "/diag"
	program := []string{"/usr/bin/load", "run", "--count=1", address}
	text, err := cluster.Exec(t.Context(), "shop", client.Metadata.Name, "client", program...)
	if err == nil && readLoad(t, text).Failed == 0 {
		t.Errorf("the admin port answers at %s: %s", address, text)
	}
}

// what the control plane logs follows a ConfigMap, without a restart.
func TestLogLevelFollowsAConfigMap(t *testing.T) {
	const name = "trellis-log"
	parts := append(replicas(t), pods(t, bed.System, "app.kubernetes.io/component=injector")...)
	before := uids(parts)
	says := func(filter string, since time.Time) {
		t.Helper()
		for _, part := range parts {
			eventually(t, part.Metadata.Name+" logs by "+filter, func() error {
				log, err := cluster.Run(t.Context(), "logs", "-n", bed.System, part.Metadata.Name, "--since-time="+since.UTC().Format(time.RFC3339))
				if err != nil {
					return err
				}
				for line := range strings.Lines(log) {
					if strings.Contains(line, "from here on this is logged") && strings.Contains(line, `"filter":"`+filter+`"`) {
						return nil
					}
				}
				return errors.New("it has not said so")
			})
		}
	}
	begun := time.Now().Add(-time.Second)
	if _, err := cluster.Run(t.Context(), "create", "configmap", name, "-n", bed.System, "--from-literal=filter=info,trellis_none=debug"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _, _ = cluster.Try(context.Background(), "", "delete", "configmap", name, "-n", bed.System, "--ignore-not-found")
	})
	says("info,trellis_none=debug", begun)
	changed := time.Now().Add(-time.Second)
	if _, err := cluster.Run(t.Context(), "delete", "configmap", name, "-n", bed.System); err != nil {
		t.Fatal(err)
	}
	says("info", changed)
	if after := uids(append(replicas(t), pods(t, bed.System, "app.kubernetes.io/component=injector")...)); !slices.Equal(before, after) {
		t.Error("the control plane was replaced meanwhile")
	}
}
