package main

// The few questions asked of the Kubernetes API itself; all else goes through kubectl.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// API asks as one user of the cluster.
type API struct {
	client http.Client
	// patient is a client for answers that go on.
	patient http.Client
	server  string
}

// newAPI asks as the cluster's administrator.
func newAPI(layout Layout, plan Plan) (*API, error) { return newAPIAs(layout, plan, "admin") }

// newAPIAs asks as whom the keys of that name belong to.
func newAPIAs(layout Layout, plan Plan, keys string) (*API, error) {
	authority, err := os.ReadFile(layout.PKI("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s holds no certificate", layout.PKI("ca.crt"))
	}
	own, err := tls.LoadX509KeyPair(layout.PKI(keys+".crt"), layout.PKI(keys+".key"))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		// The cluster is on this machine: no proxy of the environment leads there.
		Proxy:           nil,
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13},
	}
	return &API{
		client:  http.Client{Transport: transport, Timeout: 5 * time.Second},
		patient: http.Client{Transport: transport},
		server:  plan.API(),
	}, nil
}

func (a *API) get(ctx context.Context, path string, into any) error {
	return a.ask(ctx, http.MethodGet, path, "", nil, into)
}

// patch merges fields into an object, and reads what became of it.
func (a *API) patch(ctx context.Context, path string, fields, into any) error {
	return a.ask(ctx, http.MethodPatch, path, "application/merge-patch+json", fields, into)
}

// post creates an object.
func (a *API) post(ctx context.Context, path string, object any) error {
	return a.ask(ctx, http.MethodPost, path, "application/json", object, nil)
}

// statusError is an answer that says no.
type statusError struct {
	code int
	text string
}

func (e statusError) Error() string { return e.text }

func (a *API) ask(ctx context.Context, method, path, kind string, question, into any) error {
	var text []byte
	if question != nil {
		var err error
		if text, err = json.Marshal(question); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, a.server+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return refusal(path, response, body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

func refusal(path string, response *http.Response, body []byte) error {
	said := strings.TrimSpace(string(body[:min(len(body), 300)]))
	return statusError{response.StatusCode, fmt.Sprintf("%s: %s: %s", path, response.Status, said)}
}

// watch tells every change until the server ends the answer, which it does in its own time. An error is
// that of the receiver, of the connection, or one that the server sends as an event.
func (a *API) watch(ctx context.Context, path string, tell func(kind string, object json.RawMessage) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+path, nil)
	if err != nil {
		return err
	}
	response, err := a.patient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return errors.Join(refusal(path, response, body), err)
	}
	events := json.NewDecoder(response.Body)
	for {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := events.Decode(&event); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if event.Type == "ERROR" {
			return fmt.Errorf("%s: %s", path, event.Object)
		}
		if err := tell(event.Type, event.Object); err != nil {
			return err
		}
	}
}

// ready says whether the API server answers and calls itself ready.
func (a *API) ready(ctx context.Context) error { return a.get(ctx, "/readyz", nil) }

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

func holdsTrue(conditions []condition, kind string) (bool, string) {
	for _, c := range conditions {
		if c.Type == kind {
			return c.Status == "True", c.Message
		}
	}
	return false, "not reported yet"
}

// nodesReady is nil when exactly the plan's nodes are there, each ready.
func (a *API) nodesReady(ctx context.Context, plan Plan) error {
	var list struct {
		Items []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
			Status struct {
				Conditions []condition `json:"conditions"`
			} `json:"status"`
		} `json:"items"`
	}
	if err := a.get(ctx, "/api/v1/nodes", &list); err != nil {
		return err
	}
	found := map[string]error{}
	for _, item := range list.Items {
		ok, why := holdsTrue(item.Status.Conditions, "Ready")
		found[item.Metadata.Name] = nil
		if !ok {
			found[item.Metadata.Name] = fmt.Errorf("it is not ready: %s", why)
		}
	}
	var all error
	for _, node := range plan.AllNodes() {
		problem, there := found[node.Name]
		if !there {
			problem = errors.New("it has not registered")
		}
		if problem != nil {
			all = errors.Join(all, blame("kubelet-"+node.Name, fmt.Errorf("node %s: %w", node.Name, problem)))
		}
	}
	return all
}

// admitsPods is nil when the account is there without which no pod of the default namespace is taken.
func (a *API) admitsPods(ctx context.Context) error {
	return a.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
}

// dnsAvailable is nil when CoreDNS has all the replicas it should.
func (a *API) dnsAvailable(ctx context.Context) error {
	var deployment struct {
		Spec struct {
			Replicas int `json:"replicas"`
		} `json:"spec"`
		Status struct {
			Available  int         `json:"availableReplicas"`
			Conditions []condition `json:"conditions"`
		} `json:"status"`
	}
	if err := a.get(ctx, "/apis/apps/v1/namespaces/kube-system/deployments/coredns", &deployment); err != nil {
		return err
	}
	if ok, why := holdsTrue(deployment.Status.Conditions, "Available"); !ok {
		return fmt.Errorf("CoreDNS is not available: %s", why)
	}
	if have, want := deployment.Status.Available, deployment.Spec.Replicas; have < want {
		return fmt.Errorf("CoreDNS has %d of %d replicas available", have, want)
	}
	return nil
}

// apply creates or updates the objects of a manifest.
func apply(ctx context.Context, layout Layout, kube, manifest string) error {
	command := exec.CommandContext(ctx, kube, "kubectl", "apply", "--server-side", "-f", "-")
	command.Env = clientEnvironment(layout, os.Environ())
	command.Stdin = strings.NewReader(manifest)
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, strings.TrimSpace(output.String()))
	}
	return nil
}
