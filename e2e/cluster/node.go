package main

// One node: what its containerd, CNI plugins, kubelet and kube-proxy are told. Inside a node all paths
// are those of a real machine; /run, /var/lib and /var/log are folders of the node's own.

import (
	"fmt"
	"os"
	"path/filepath"
)

const (
	pauseImage   = "localhost/pause:1"
	corednsImage = "localhost/coredns:1"

	cniPlugins       = "/usr/lib/cni"
	containerdSocket = "/run/containerd/containerd.sock"
)

// writeNode fills a node's disk before its first start.
func writeNode(layout Layout, plan Plan, node Node) error {
	for _, folder := range []string{"run/containerd", "lib/kubelet", "lib/kube-proxy", "lib/cni/conf", "log"} {
		if err := os.MkdirAll(layout.Node(node, folder), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"run/containerd/config.toml":    containerdConfig(),
		"lib/cni/conf/10-pods.conflist": cniConfig(node),
		"lib/kubelet/config.yaml":       kubeletConfig(plan, node),
		"lib/kube-proxy/config.yaml":    proxyConfig(plan),
	}
	for name, text := range files {
		if err := os.WriteFile(layout.Node(node, filepath.FromSlash(name)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// covers are the folders that a node sees of its own in place of the machine's. Several of kubelet's
// paths cannot be set, and two kubelets would share them.
func covers(layout Layout, node Node) map[string]string {
	return map[string]string{
		"/run":     layout.Node(node, "run"),
		"/var/lib": layout.Node(node, "lib"),
		"/var/log": layout.Node(node, "log"),
	}
}

// containerdConfig: without restrict_oom_score_adj a machine that lacks CAP_SYS_RESOURCE starts no
// container at all. The plugins left out need disks of their own or write outside the node.
func containerdConfig() string {
	return fmt.Sprintf(`version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = %q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = "/var/lib/cni/conf"
`, containerdSocket, pauseImage, cniPlugins)
}

// cniConfig: addresses are not masqueraded, so that peers see the pod's own.
func cniConfig(node Node) string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": false,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": %q}], [{"subnet": %q}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, node.Pods4, node.Pods6)
}

// kubeletConfig: a version 1 cgroup is refused unless told otherwise, and there may be swap. Pods get no
// resolver but the cluster's. Mounted bundles and tokens are looked at every few seconds, not minutes.
func kubeletConfig(plan Plan, node Node) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /var/lib/kubelet/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /var/lib/kubelet/server.crt
tlsPrivateKeyFile: /var/lib/kubelet/server.key
clusterDNS: [%[1]s]
clusterDomain: %[2]s
resolvConf: ""
containerRuntimeEndpoint: unix://%[3]s
cgroupDriver: cgroupfs
cgroupRoot: %[4]s
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%}
imageGCHighThresholdPercent: 100
nodeLeaseDurationSeconds: 10
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 10s
syncFrequency: 5s
featureGates: {%[5]s}
`, plan.DNS4(), clusterDomain, containerdSocket, node.Cgroup, gates(": true", ", "))
}

// proxyConfig: the limits of connection tracking belong to the machine and are left alone.
func proxyConfig(plan Plan) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig}
detectLocalMode: ClusterCIDR
clusterCIDR: %s,%s
conntrack: {maxPerCore: 0}
nftables: {minSyncPeriod: 100ms}
oomScoreAdj: 0
`, plan.Pods4(), plan.Pods6())
}

func kubelet(node Node) Server {
	return Server{"kubelet-" + node.Name, []string{
		"kubelet",
		"--config=/var/lib/kubelet/config.yaml",
		"--kubeconfig=/var/lib/kubelet/kubeconfig",
		"--hostname-override=" + node.Name,
		"--node-ip=" + node.IPv4.String() + "," + node.IPv6.String(),
	}}
}

func kubeProxy(node Node) Server {
	return Server{"kube-proxy-" + node.Name, []string{
		"proxy",
		"--config=/var/lib/kube-proxy/config.yaml",
		"--hostname-override=" + node.Name,
	}}
}
