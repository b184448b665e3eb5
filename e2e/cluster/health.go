package main

// Whether a cluster works, and whose log says why not.

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// healthy is nil when a cluster that once was up still works.
func healthy(ctx context.Context, layout Layout, record Record) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := record.ended(); err != nil {
		return err
	}
	api, err := newAPI(layout, record.Plan)
	if err != nil {
		return err
	}
	if err := api.ready(ctx); err != nil {
		return err
	}
	return errors.Join(
		api.nodesReady(ctx, record.Plan), api.admitsPods(ctx), api.dnsAvailable(ctx), dnsAnswers(ctx, record.Plan))
}

// ended tells of the first server that no longer runs.
func (r Record) ended() error {
	for _, process := range r.Servers {
		if !process.Alive() {
			return serverFailure(process.Name+" has ended", process.Log)
		}
	}
	return nil
}

// dnsAnswers asks the name service from the machine and from each node, over both families.
func dnsAnswers(ctx context.Context, plan Plan) error {
	var all error
	for _, server := range []netip.Addr{plan.DNS4(), plan.DNS6()} {
		ask := func() error { return probeDNS(ctx, server, plan.APIService()) }
		if err := ask(); err != nil {
			all = errors.Join(all, fmt.Errorf("DNS at %s from this machine: %w", server, err))
		}
		for _, node := range plan.AllNodes() {
			if err := inNetwork(node.Namespace, ask); err != nil {
				all = errors.Join(all, blame("kube-proxy-"+node.Name, fmt.Errorf("DNS at %s from node %s: %w", server, node.Name, err)))
			}
		}
	}
	return all
}

// blamedError says which server's log explains it.
type blamedError struct {
	server string
	error
}

func (e blamedError) Unwrap() error { return e.error }

func blame(server string, err error) error { return blamedError{server, err} }
