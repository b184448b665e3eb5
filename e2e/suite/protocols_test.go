package suite

// Protocols as the world speaks them: other people's servers and clients, in pods that know of no mesh. This
// is what their tests share.

import (
	"encoding/json"
	"strconv"
	"testing"

	"trellis.dev/e2e/suite/kube"
	"trellis.dev/e2e/suite/manifests"
	trellis "trellis.dev/e2e/suite/mesh"
)

// Pair is a server and who talks to it.
type Pair struct {
	// Server and Client are images.
	Server, Client string
	// Command starts the server, which keeps its data in /data.
	Command []string
	// Ports are the Service's, by name as far as applications name them; the first tells when it is ready.
	Ports []Port
	// Hello is what the client runs until it works: names may take a moment to be known on its node.
	Hello []string
}

// Port of a Service.
type Port struct {
	Name string `json:"name"`
	Port int    `json:"port"`
}

const (
	postgresImage = "trellis.dev/e2e/postgres:1"
	mariadbImage  = "trellis.dev/e2e/mariadb:1"
	redisImage    = "trellis.dev/e2e/redis:1"
	nodeImage     = "trellis.dev/e2e/node:1"
	talkImage     = "trellis.dev/e2e/talk:1"
)

// Talk is a pair that is up.
type Talk struct {
	namespace string
	client    *kube.Pod
	before    []trellis.Connections
}

// meet brings a pair up in a namespace of its own, for the length of the test.
func meet(t *testing.T, namespace string, pair Pair) *Talk {
	t.Helper()
	values := map[string]string{
		"NAMESPACE": namespace, "NODE_A": mesh.Nodes[0], "NODE_B": mesh.Nodes[1], "IMAGES": mesh.Images,
		"SERVER": pair.Server, "CLIENT": pair.Client, "READY": strconv.Itoa(pair.Ports[0].Port),
	}
	for name, value := range map[string]any{"COMMAND": pair.Command, "PORTS": pair.Ports} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		values[name] = string(text)
	}
	text, err := manifests.Read("pair.yaml", values)
	if err != nil {
		t.Fatal(err)
	}
	// One of that name may still be going, after an earlier run of the suite.
	if _, err := cluster.Run(t.Context(), "wait", "--for=delete", "namespace/"+namespace, "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	apply(t, text)
	for _, deployment := range []string{"server", "client"} {
		if err := rolledOut(t.Context(), namespace, deployment); err != nil {
			t.Fatal(err)
		}
	}
	talk := &Talk{namespace: namespace, client: pod(t, namespace, "client")}
	eventually(t, "a first word in "+namespace, func() error {
		_, err := talk.try(t, pair.Hello...)
		return err
	})
	talk.before = evidence(t, talk.client).Outbound
	return talk
}

func (a *Talk) try(t *testing.T, program ...string) (string, error) {
	t.Helper()
	return cluster.Exec(t.Context(), a.namespace, a.client.Metadata.Name, "client", program...)
}

// says runs a program in the client, which has to succeed.
func (a *Talk) says(t *testing.T, program ...string) string {
	t.Helper()
	text, err := a.try(t, program...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// heard runs a program that prints counts, and compares those that are named.
func (a *Talk) heard(t *testing.T, want map[string]int, program ...string) {
	t.Helper()
	var got map[string]int
	text := a.says(t, program...)
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	for what, count := range want {
		if got[what] != count {
			t.Errorf("%s: %d, want %d, of %v", what, got[what], count, got)
		}
	}
}

// postQuantum checks that all that was said since they met went through tunnels to the server, and with
// which protection.
func (a *Talk) postQuantum(t *testing.T) {
	t.Helper()
	after := evidence(t, a.client).Outbound
	server := identity(a.namespace, "server")
	// Those that they met by may be the ones that carried all of it.
	safe := grown(nil, after, func(c *trellis.Connections) bool { return c.Destination == server && c.Class == "pq" })
	weak := grown(a.before, after, func(c *trellis.Connections) bool { return c.Class != "pq" })
	if safe == 0 || weak != 0 {
		t.Errorf("%d connections to the server were post-quantum, %d of all were not", safe, weak)
	}
}
