package main

// What clusters share on the machine itself: the slots that keep their addresses apart, and the few
// settings that running one changes. The first cluster writes those down, the last one puts them back.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	machineLock   = ".lock"
	machineRecord = ".machine.json"
)

// kubelet writes these, which belong to no namespace.
var kubeletSettings = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// Machine is the record of how it was found.
type Machine struct {
	Settings map[string]string `json:"settings"`
	// NamespaceDir and NamespaceMount: `ip netns` found its folder, and the mount that it puts there.
	NamespaceDir   bool `json:"namespaceDir"`
	NamespaceMount bool `json:"namespaceMount"`
}

// enterMachine reserves a slot for a cluster and writes down how the machine was before the first.
func enterMachine(ctx context.Context, layout Layout, name string, nodes int) (Plan, error) {
	lock, err := lockMachine(ctx)
	if err != nil {
		return Plan{}, err
	}
	defer lock.release()
	if err := recordMachine(); err != nil {
		return Plan{}, err
	}
	plan, err := freeSlot(name, nodes)
	if err != nil {
		return Plan{}, err
	}
	if err := layout.claim(); err != nil {
		return Plan{}, err
	}
	return plan, layout.save(Record{Plan: plan})
}

// leaveMachine gives the name back and, after the last cluster, restores the machine.
func leaveMachine(ctx context.Context, layout Layout) error {
	lock, err := lockMachine(ctx)
	if err != nil {
		return err
	}
	if err := layout.release(); err != nil {
		return errors.Join(err, lock.release())
	}
	links, err := registered()
	if err != nil || len(links) > 0 {
		return errors.Join(err, lock.release())
	}
	return errors.Join(restoreMachine(), lock.remove())
}

func lockMachine(ctx context.Context) (*Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return acquire(ctx, filepath.Join(registryDir, machineLock), func() {})
}

// registered lists the links of all clusters of this machine.
func registered() ([]string, error) {
	entries, err := os.ReadDir(registryDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var links []string
	for _, entry := range entries {
		if entry.Type()&fs.ModeSymlink != 0 {
			links = append(links, filepath.Join(registryDir, entry.Name()))
		}
	}
	return links, err
}

// freeSlot finds addresses that neither another cluster nor the machine itself uses.
func freeSlot(name string, nodes int) (Plan, error) {
	links, err := registered()
	if err != nil {
		return Plan{}, err
	}
	taken := make(map[int]bool)
	for _, link := range links {
		var record Record
		if err := readJSON(filepath.Join(link, "cluster.json"), &record); err == nil {
			taken[record.Plan.Slot] = true
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return Plan{}, err
	}
	for slot := range maxSlots {
		plan := Plan{Name: name, Slot: slot, Nodes: nodes}
		if !taken[slot] && !overlaps(plan.Ranges(), own) {
			return plan, nil
		}
	}
	return Plan{}, fmt.Errorf("all %d slots for clusters are taken, by clusters or by addresses of this machine; `down` a cluster: %s",
		maxSlots, strings.Join(links, ", "))
}

func overlaps(ranges []netip.Prefix, addresses []net.Addr) bool {
	for _, address := range addresses {
		network, err := netip.ParsePrefix(address.String())
		if err != nil {
			continue
		}
		for _, r := range ranges {
			if r.Overlaps(network) {
				return true
			}
		}
	}
	return false
}

func recordMachine() error {
	name := filepath.Join(registryDir, machineRecord)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	_, err := os.Stat(namespaceDir)
	machine := Machine{Settings: map[string]string{}, NamespaceDir: err == nil, NamespaceMount: isMount(namespaceDir)}
	for _, setting := range kubeletSettings {
		value, err := os.ReadFile(filepath.Join("/proc/sys", setting))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		machine.Settings[setting] = strings.TrimSpace(string(value))
	}
	return writeJSON(name, machine)
}

func restoreMachine() error {
	name := filepath.Join(registryDir, machineRecord)
	var machine Machine
	if err := readJSON(name, &machine); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var all error
	for setting, value := range machine.Settings {
		all = errors.Join(all, writeSetting(setting, value))
	}
	return errors.Join(all, machine.restoreNamespaceDir(), os.Remove(name))
}

func (m Machine) restoreNamespaceDir() error {
	entries, err := os.ReadDir(namespaceDir)
	if err != nil || len(entries) > 0 {
		// Others have made namespaces meanwhile, or taken the folder away: now it is theirs.
		return nil
	}
	if !m.NamespaceMount && isMount(namespaceDir) {
		if err := syscall.Unmount(namespaceDir, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", namespaceDir, err)
		}
	}
	if !m.NamespaceDir && !isMount(namespaceDir) {
		return os.Remove(namespaceDir)
	}
	return nil
}

func writeSetting(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
}

// isMount says whether something is mounted on a folder.
func isMount(folder string) bool {
	points, err := mountsUnder(folder)
	return err == nil && len(points) > 0 && points[0] == folder
}
