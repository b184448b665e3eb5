package suite

// The API by HTTP, for those who ask so often, or watch so much, that a kubectl for each question would be too slow.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// wire asks the API server without a process for each question.
type wire struct {
	base   string
	client http.Client
}

// directly opens a way to the API server for as long as the test runs.
func directly(t *testing.T) *wire {
	t.Helper()
	output := alongside(t, cluster.Command(t.Context(), "proxy", "--port=0"))
	var address string
	if _, err := fmt.Fscanf(output, "Starting to serve on %s\n", &address); err != nil {
		t.Fatal(err)
	}
	return &wire{base: "http://" + address}
}

func (d *wire) do(ctx context.Context, method, path, body string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, d.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	answer, err := d.client.Do(request)
	// Something may be gone, or another one, before it is deleted.
	late := err == nil && method == http.MethodDelete && (answer.StatusCode == http.StatusNotFound || answer.StatusCode == http.StatusConflict)
	if err == nil && answer.StatusCode >= 400 && !late {
		answer.Body.Close()
		err = fmt.Errorf("%s %s: %s", method, path, answer.Status)
	}
	return answer, err
}

func (d *wire) get(path string, into any) error {
	answer, err := d.do(context.Background(), http.MethodGet, path, "")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return json.NewDecoder(answer.Body).Decode(into)
}

func (d *wire) patch(t *testing.T, path string, patch any) {
	t.Helper()
	answer, err := d.do(t.Context(), http.MethodPatch, path, manifest(t, patch))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}

// delete says whether it was there, as it was when it was looked at.
func (d *wire) delete(t *testing.T, path, revision string) bool {
	t.Helper()
	options := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": map[string]any{"resourceVersion": revision}}
	answer, err := d.do(t.Context(), http.MethodDelete, path, manifest(t, options))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode < 400
}

// now is the version of the cluster's state.
func (d *wire) now(t *testing.T, namespace string) int64 {
	t.Helper()
	var list struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := d.get("/api/v1/namespaces/"+namespace+"/configmaps?limit=1", &list); err != nil {
		t.Fatal(err)
	}
	return revision(t, list.Metadata.ResourceVersion)
}

func revision(t *testing.T, text string) int64 {
	t.Helper()
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Errorf("a version of the cluster's state is %q", text)
	}
	return value
}
