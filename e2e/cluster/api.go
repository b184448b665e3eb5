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

// API asks as the cluster's administrator.
type API struct {
	client http.Client
	server string
}

func newAPI(layout Layout, plan Plan) (*API, error) {
	authority, err := os.ReadFile(layout.PKI("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s holds no certificate", layout.PKI("ca.crt"))
	}
	own, err := tls.LoadX509KeyPair(layout.PKI("admin.crt"), layout.PKI("admin.key"))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		// The cluster is on this machine: no proxy of the environment leads there.
		Proxy:           nil,
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13},
	}
	return &API{client: http.Client{Transport: transport, Timeout: 5 * time.Second}, server: plan.API()}, nil
}

func (a *API) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+path, nil)
	if err != nil {
		return err
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
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, response.Status, strings.TrimSpace(string(body[:min(len(body), 300)])))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
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
