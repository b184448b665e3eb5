package conformance

// A gateway is replaced under load: its clients notice nothing. No test of the suite asks that.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"trellis.dev/e2e/suite/kube"
)

const (
	// rate is how many requests come in a second, half of them on connections that are kept, half on new ones.
	rate = 500
	// under is how many may be under way: more, and nobody answers any longer.
	under = 4096

	rolloutNamespace = "trellis-rollout"
	rolloutManifests = `
apiVersion: v1
kind: Namespace
metadata: {name: trellis-rollout, labels: {trellis.dev/e2e: suite}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: trellis-rollout}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
        - name: echo
          image: registry.k8s.io/gateway-api/echo-basic:v1.5.1
          env:
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
          readinessProbe: {tcpSocket: {port: 3000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: trellis-rollout}
spec: {selector: {app: echo}, ports: [{name: http, port: 80, targetPort: 3000}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: rollout, namespace: trellis-rollout}
spec:
  gatewayClassName: trellis
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: trellis-rollout}
spec:
  parentRefs: [{name: rollout}]
  rules: [{backendRefs: [{name: echo, port: 80}]}]
`
)

// TestGatewayRollout replaces every pod of a gateway while requests come at a rate, however long answers take.
func TestGatewayRollout(t *testing.T) {
	cluster := mesh.Kube
	run := func(args ...string) string {
		t.Helper()
		text, err := cluster.Run(t.Context(), args...)
		require.NoError(t, err)
		return text
	}
	t.Cleanup(func() {
		if !mesh.Keep {
			_, _ = cluster.Run(context.Background(), "delete", "namespace", rolloutNamespace, "--wait=false")
		}
	})
	_, err := cluster.Apply(t.Context(), rolloutManifests)
	require.NoError(t, err)
	run("rollout", "status", "-n", rolloutNamespace, "deployment/echo", "--timeout=60s")
	run("wait", "-n", rolloutNamespace, "gateway/rollout", "--for=condition=Programmed", "--timeout=60s")
	address := run("get", "-n", rolloutNamespace, "gateway/rollout", "-o", `jsonpath={.status.addresses[?(@.type=="IPAddress")].value}`)
	address = strings.Fields(address)[0]
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	url := "http://" + address + "/"
	answers(t, url)

	var before kube.List[kube.Pod]
	require.NoError(t, cluster.Get(t.Context(), &before, "pods", "-n", rolloutNamespace, "-l", "gateway.networking.k8s.io/gateway-name=rollout"))
	require.NotEmpty(t, before.Items)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan tally, 1)
	go func() { ended <- pour(ctx, url) }()
	run("rollout", "restart", "-n", rolloutNamespace, "deployment/rollout-trellis")
	run("rollout", "status", "-n", rolloutNamespace, "deployment/rollout-trellis", "--timeout=120s")
	for _, old := range before.Items {
		if _, err := cluster.Run(t.Context(), "wait", "-n", rolloutNamespace, "pod/"+old.Metadata.Name, "--for=delete", "--timeout=60s"); err != nil && !strings.Contains(err.Error(), "not found") {
			t.Fatal(err)
		}
	}
	stop()
	all := <-ended
	t.Logf("%d requests in %.0f s, %d failed", all.sent, all.took.Seconds(), all.failed)
	if all.failed > 0 {
		t.Errorf("%d of %d requests failed: %v", all.failed, all.sent, all.errors)
	}
	if due := all.took.Seconds() * rate; float64(all.sent) < 0.95*due {
		t.Errorf("%d requests of %.0f that were due: the load itself is too slow", all.sent, due)
	}
}

// answers waits until a URL is answered.
func answers(t *testing.T, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{Proxy: nil}, Timeout: 5 * time.Second}
	deadline := time.Now().Add(patience)
	for {
		err := get(t.Context(), client, url)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not answered: %v", url, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

type tally struct {
	sent, failed int
	errors       map[string]int
	took         time.Duration
}

// pour asks at the rate until it is told to stop.
func pour(ctx context.Context, url string) tally {
	transport := func(fresh bool) *http.Client {
		return &http.Client{
			Transport: &http.Transport{Proxy: nil, DisableKeepAlives: fresh, MaxIdleConnsPerHost: under},
			Timeout:   10 * time.Second,
		}
	}
	clients := []*http.Client{transport(false), transport(true)}
	var mutex sync.Mutex
	var all sync.WaitGroup
	counted := tally{errors: map[string]int{}}
	count := func(err error) {
		mutex.Lock()
		defer mutex.Unlock()
		counted.sent++
		if err != nil {
			counted.failed++
			if text := err.Error(); len(counted.errors) < 20 || counted.errors[text] > 0 {
				counted.errors[text]++
			}
		}
	}
	places := make(chan struct{}, under)
	begin := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		select {
		case <-ctx.Done():
			continue
		case <-time.After(time.Until(begin.Add(time.Duration(i) * time.Second / rate))):
		}
		select {
		case places <- struct{}{}:
		default:
			count(errors.New("too many requests are under way"))
			continue
		}
		all.Go(func() {
			defer func() { <-places }()
			count(get(context.WithoutCancel(ctx), clients[i%2], url))
		})
	}
	counted.took = time.Since(begin)
	all.Wait()
	return counted
}

func get(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s, %s", answer.Status, answer.Header.Get("trellis-error"))
	}
	return nil
}
