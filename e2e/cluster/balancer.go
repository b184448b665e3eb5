package main

// The load balancer: a server of the cluster that gives Services of type LoadBalancer addresses from the
// cluster's ranges. Packets then find a node by a route, and on it a pod by kube-proxy's rules; no
// interface has any of the addresses.

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// balanceCommand is how the cluster program starts itself as the load balancer.
	balanceCommand = "balance"
	balancerName   = "load-balancer"
	// balancerPace is how often what failed is tried again, and nodes are asked whether they take traffic.
	balancerPace = time.Second
)

//go:embed manifests/balancer.yaml
var balancerManifest string

func balancer(plan Plan) (Server, Launch, error) {
	self, err := os.Executable()
	return Server{balancerName, []string{balanceCommand, plan.Name}}, Launch{Program: self}, err
}

// balance runs until it is killed with the other servers.
func balance(ctx context.Context, name string) error {
	layout, err := layoutOf(name)
	if err != nil {
		return err
	}
	record, err := layout.load()
	if err != nil {
		return err
	}
	api, err := newAPIAs(layout, record.Plan, balancerName)
	if err != nil {
		return err
	}
	b := &Balancer{
		api: api, plan: record.Plan,
		allotment: Allotment{pools: record.Plan.pools()},
		services:  map[string]*Service{}, said: map[string]string{}, routes: map[netip.Addr][]string{},
		log: func(text string) { fmt.Println(time.Now().UTC().Format(time.RFC3339), text) },
		route: func(ctx context.Context, line string) error {
			return errors.Join(ip(ctx, "", line), ip(ctx, record.Plan.Outside(), line))
		},
	}
	return b.run(ctx)
}

// Balancer is the state of the server.
type Balancer struct {
	api       *API
	plan      Plan
	allotment Allotment
	// services that there are, by UID.
	services map[string]*Service
	// said is the last problem that was told of a Service, or of the server itself under "".
	said map[string]string
	// routes that lead to some nodes only, as the names of these.
	routes map[netip.Addr][]string
	log    func(string)
	// route changes the routing of all who stand outside the nodes.
	route func(ctx context.Context, line string) error
}

// change is an event of the API's, or a list that takes the place of all that was known.
type change struct {
	kind    string
	service *Service
	all     []*Service
}

func (b *Balancer) run(ctx context.Context) error {
	changes := make(chan change)
	go b.follow(ctx, changes)
	pace := time.NewTicker(balancerPace)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-changes:
			b.learn(c)
		case <-pace.C:
		}
		b.step(ctx)
	}
}

// follow reads all Services and then what changes, over and over.
func (b *Balancer) follow(ctx context.Context, changes chan<- change) {
	send := func(c change) bool {
		select {
		case changes <- c:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for ctx.Err() == nil {
		var list struct {
			Metadata struct {
				Version string `json:"resourceVersion"`
			} `json:"metadata"`
			Items []*Service `json:"items"`
		}
		err := b.api.get(ctx, "/api/v1/services", &list)
		if err == nil && send(change{all: list.Items, kind: "LIST"}) {
			err = b.api.watch(ctx, "/api/v1/services?watch=1&timeoutSeconds=300&resourceVersion="+list.Metadata.Version,
				func(kind string, object json.RawMessage) error {
					var service Service
					if err := json.Unmarshal(object, &service); err != nil {
						return err
					}
					send(change{kind: kind, service: &service})
					return nil
				})
		}
		if err != nil && ctx.Err() == nil {
			b.log("services: " + err.Error())
			select {
			case <-ctx.Done():
			case <-time.After(balancerPace):
			}
		}
	}
}

func (b *Balancer) learn(c change) {
	switch c.kind {
	case "LIST":
		clear(b.services)
		for _, service := range c.all {
			b.services[service.Metadata.UID] = service
		}
	case "DELETED":
		delete(b.services, c.service.Metadata.UID)
	default:
		b.services[c.service.Metadata.UID] = c.service
	}
}

// step brings what is to what shall be.
func (b *Balancer) step(ctx context.Context) {
	services := make([]*Service, 0, len(b.services))
	for _, service := range b.services {
		services = append(services, service)
	}
	said := map[string]string{}
	narrow := map[netip.Addr][]string{}
	for _, settled := range b.allotment.settle(services) {
		service := settled.Service
		problem := settled.Problem
		if settled.differs() {
			problem = errors.Join(problem, b.publish(ctx, settled))
		}
		if service.ours() && service.local() {
			if nodes := b.takers(ctx, service); len(nodes) > 0 {
				for _, address := range settled.Addresses {
					narrow[address] = nodes
				}
			}
		}
		if problem != nil {
			said[service.Metadata.UID] = problem.Error()
			b.tell(ctx, service, problem.Error())
		}
	}
	b.said = said
	b.lead(ctx, narrow)
}

// publish writes a Service's addresses into its status.
func (b *Balancer) publish(ctx context.Context, settled Settled) error {
	patch := map[string]any{"status": map[string]any{"loadBalancer": map[string]any{"ingress": settled.ingress()}}}
	var written Service
	err := b.api.patch(ctx, settled.Service.path()+"/status", patch, &written)
	var refused statusError
	if errors.As(err, &refused) && refused.code == http.StatusNotFound {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	b.services[written.Metadata.UID] = &written
	b.log(fmt.Sprintf("%s: %v", settled.Service.key(), settled.Addresses))
	return nil
}

// tell says a Service's problem once, where its owner looks.
func (b *Balancer) tell(ctx context.Context, service *Service, problem string) {
	if b.said[service.Metadata.UID] == problem {
		return
	}
	b.log(service.key() + ": " + problem)
	now := time.Now().UTC().Format(time.RFC3339)
	err := b.api.post(ctx, "/api/v1/namespaces/"+service.Metadata.Namespace+"/events", map[string]any{
		"metadata": map[string]any{"generateName": service.Metadata.Name + "-", "namespace": service.Metadata.Namespace},
		"involvedObject": map[string]any{
			"apiVersion": "v1", "kind": "Service", "name": service.Metadata.Name,
			"namespace": service.Metadata.Namespace, "uid": service.Metadata.UID,
		},
		"type": "Warning", "reason": "SyncLoadBalancerFailed", "message": problem, "count": 1,
		"firstTimestamp": now, "lastTimestamp": now, "source": map[string]any{"component": balancerName},
	})
	if err != nil {
		b.log(service.key() + ": event: " + err.Error())
	}
}

// takers are the nodes that run one of the Service's pods, as their kube-proxies answer to the health
// check that Kubernetes provides for load balancers.
func (b *Balancer) takers(ctx context.Context, service *Service) []string {
	ctx, cancel := context.WithTimeout(ctx, balancerPace)
	defer cancel()
	var names []string
	for _, node := range b.plan.AllNodes() {
		url := "http://" + netip.AddrPortFrom(node.IPv4, uint16(service.Spec.Health)).String() + "/healthz"
		if healthyAt(ctx, url) {
			names = append(names, node.Name)
		}
	}
	return names
}

func healthyAt(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	client := http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// lead makes the routes for addresses that only some nodes take. All others are covered by the route of
// their range; so is one that no node takes, and the nodes then refuse it.
func (b *Balancer) lead(ctx context.Context, narrow map[netip.Addr][]string) {
	for address, nodes := range narrow {
		if slices.Equal(b.routes[address], nodes) {
			continue
		}
		if b.reroute(ctx, "route replace "+b.hops(address, nodes)) {
			b.routes[address] = nodes
		}
	}
	for address := range b.routes {
		if _, wanted := narrow[address]; wanted {
			continue
		}
		if b.reroute(ctx, "route del "+single(address)) {
			delete(b.routes, address)
		}
	}
}

func (b *Balancer) reroute(ctx context.Context, line string) bool {
	err := b.route(ctx, line)
	if err != nil {
		b.log(err.Error())
	}
	return err == nil
}

func (b *Balancer) hops(address netip.Addr, names []string) string {
	line := single(address)
	for _, node := range b.plan.AllNodes() {
		if !slices.Contains(names, node.Name) {
			continue
		}
		via := node.IPv4
		if address.Is6() {
			via = node.IPv6
		}
		line += " nexthop via " + via.String()
	}
	return line
}

func single(address netip.Addr) string {
	return strings.Join([]string{address.String(), strconv.Itoa(address.BitLen())}, "/")
}
