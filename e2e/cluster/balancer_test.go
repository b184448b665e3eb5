package main

// The load balancer against an API server that remembers what it is told.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// store is an API server of Services: it lists, tells of changes, and takes patches and events.
type store struct {
	guard    sync.Mutex
	services map[string]*Service
	events   []string
	patches  int
	tell     chan string
}

func newStore(t *testing.T, services ...*Service) (*store, *API) {
	s := &store{services: map[string]*Service{}, tell: make(chan string, 8)}
	for _, service := range services {
		s.services[service.path()] = service
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.CloseClientConnections)
	return s, &API{server: server.URL}
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPatch:
		s.guard.Lock()
		defer s.guard.Unlock()
		service := s.services[strings.TrimSuffix(r.URL.Path, "/status")]
		if service == nil {
			http.NotFound(w, r)
			return
		}
		s.patches++
		service.Status.Balancer.Ingress = nil
		_ = json.NewDecoder(r.Body).Decode(service)
		_ = json.NewEncoder(w).Encode(service)
	case r.Method == http.MethodPost:
		var event struct{ Message string }
		_ = json.NewDecoder(r.Body).Decode(&event)
		s.guard.Lock()
		defer s.guard.Unlock()
		s.events = append(s.events, event.Message)
		w.WriteHeader(http.StatusCreated)
	case r.URL.Query().Has("watch"):
		for {
			w.(http.Flusher).Flush()
			select {
			case event := <-s.tell:
				fmt.Fprintln(w, event)
			case <-r.Context().Done():
				return
			}
		}
	default:
		s.guard.Lock()
		defer s.guard.Unlock()
		items := []*Service{}
		for _, service := range s.services {
			items = append(items, service)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"resourceVersion": "7"}, "items": items})
	}
}

func (s *store) event(t *testing.T, kind string, service *Service) {
	object, err := json.Marshal(map[string]any{"type": kind, "object": service})
	if err != nil {
		t.Fatal(err)
	}
	s.tell <- string(object)
}

func testBalancer(api *API) (*Balancer, *[]string) {
	var routes []string
	return &Balancer{
		api: api, plan: testPlan, allotment: *testAllotment(),
		services: map[string]*Service{}, said: map[string]string{}, routes: map[netip.Addr][]string{},
		log:   func(string) {},
		route: func(_ context.Context, line string) error { routes = append(routes, line); return nil },
	}, &routes
}

func (s *store) await(t *testing.T, what string, look func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		s.guard.Lock()
		done := look()
		s.guard.Unlock()
		if done {
			return
		}
	}
	t.Fatalf("%s did not come about", what)
}

func TestServicesAreFollowed(t *testing.T) {
	a, b := balanced("a", 0, dual...), balanced("b", 1, "IPv4")
	s, api := newStore(t, a)
	balancer, _ := testBalancer(api)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- balancer.run(ctx) }()
	s.await(t, "an address for what was there", func() bool { return len(a.Status.Balancer.Ingress) == 2 })
	s.guard.Lock()
	s.services[b.path()] = b
	fresh := *b
	s.guard.Unlock()
	s.event(t, "ADDED", &fresh)
	s.await(t, "an address for what came", func() bool { return len(b.Status.Balancer.Ingress) == 1 })
	if got := b.Status.Balancer.Ingress[0]; got != (Ingress{"198.51.100.34", "VIP"}) {
		t.Errorf("%+v", got)
	}
	// The first one's address is free when it is gone, for who wants just that.
	s.event(t, "DELETED", a)
	s.guard.Lock()
	delete(s.services, a.path())
	b.Spec.Wanted = "198.51.100.33"
	fresh = *b
	s.guard.Unlock()
	s.event(t, "MODIFIED", &fresh)
	s.await(t, "the freed address", func() bool { return b.Status.Balancer.Ingress[0].IP == "198.51.100.33" })
	cancel()
	<-ended
}

func TestProblemIsToldOnce(t *testing.T) {
	s, api := newStore(t)
	balancer, _ := testBalancer(api)
	service := balanced("a", 0, "IPv4").wants("192.0.2.1")
	balancer.learn(change{kind: "ADDED", service: service})
	for range 3 {
		balancer.step(t.Context())
	}
	if len(s.events) != 1 || !strings.Contains(s.events[0], "spec.loadBalancerIP 192.0.2.1 cannot be had") || s.patches != 0 {
		t.Errorf("events %q, %d patches", s.events, s.patches)
	}
	balancer.learn(change{kind: "MODIFIED", service: balanced("a", 0, "IPv4").wants("nowhere")})
	balancer.step(t.Context())
	if len(s.events) != 2 {
		t.Errorf("another problem: events %q", s.events)
	}
}

// A Service that is deleted while its address is written is no problem of anybody's.
func TestDeletedMeanwhile(t *testing.T) {
	s, api := newStore(t)
	balancer, _ := testBalancer(api)
	balancer.learn(change{kind: "ADDED", service: balanced("a", 0, "IPv4")})
	balancer.step(t.Context())
	if len(s.events) != 0 || len(balancer.said) != 0 {
		t.Errorf("events %q, said %q", s.events, balancer.said)
	}
}

// Routes to some nodes are made once, follow where the pods are, and go with the address.
func TestRoutesFollowTheNodes(t *testing.T) {
	balancer, routes := testBalancer(nil)
	four, six := netip.MustParseAddr("198.51.100.33"), netip.MustParseAddr("2001:db8:100:1::1")
	for _, step := range []struct {
		narrow map[netip.Addr][]string
		want   string
	}{
		{map[netip.Addr][]string{four: {"n2"}}, "route replace 198.51.100.33/32 nexthop via 198.18.1.12"},
		{map[netip.Addr][]string{four: {"n2"}}, ""},
		{map[netip.Addr][]string{four: {"n1", "n2"}}, "route replace 198.51.100.33/32 nexthop via 198.18.1.11 nexthop via 198.18.1.12"},
		{map[netip.Addr][]string{}, "route del 198.51.100.33/32"},
		{map[netip.Addr][]string{six: {"n1"}}, "route replace 2001:db8:100:1::1/128 nexthop via fd00:10:19::11"},
		{nil, "route del 2001:db8:100:1::1/128"},
		{nil, ""},
	} {
		*routes = nil
		balancer.lead(t.Context(), step.narrow)
		if got := strings.Join(*routes, "; "); got != step.want {
			t.Errorf("%v: %q, want %q", step.narrow, got, step.want)
		}
	}
}
