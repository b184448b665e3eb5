package main

// The control plane, in the first node's network namespace: its keys, its kubeconfigs and the command
// lines of etcd, API server, controller manager and scheduler.

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// featureGates and apiGroups open what the mesh proves itself against and Kubernetes still keeps closed.
var featureGates = []string{"ClusterTrustBundle", "ClusterTrustBundleProjection", "PodCertificateRequest"}

const (
	apiGroups     = "certificates.k8s.io/v1beta1=true"
	clusterDomain = "cluster.local"
)

// auditPolicy is the file that the product ships for API servers, as the cluster's own one keeps it.
const auditPolicy = "audit-policy.yaml"

// writeAuditPolicy takes it from the tree that this program is of.
func writeAuditPolicy(layout Layout, source string) error {
	shipped := filepath.Join(source, "..", "..", "docs", auditPolicy)
	text, err := os.ReadFile(shipped)
	if err != nil {
		return err
	}
	return os.WriteFile(layout.path("control", auditPolicy), text, 0o600)
}

// writeKeys makes every key of the control plane and of the nodes, and the kubeconfigs that hold some.
func writeKeys(layout Layout, plan Plan, now time.Time) error {
	authority, err := newAuthority("kubernetes", now)
	if err != nil {
		return err
	}
	front, err := newAuthority("kubernetes-front-proxy", now)
	if err != nil {
		return err
	}
	k := keyring{layout: layout, plan: plan, authority: authority}
	key, err := authority.KeyPEM()
	k.fail(err)
	private, public, err := newTokenKey()
	k.fail(err)
	k.write(layout.PKI("ca.crt"), authority.PEM())
	k.write(layout.PKI("ca.key"), key)
	k.write(layout.PKI("front-ca.crt"), front.PEM())
	k.write(layout.PKI("sa.key"), private)
	k.write(layout.PKI("sa.pub"), public)

	first := plan.node(1)
	k.pair("apiserver", authority, Subject{
		Name:      "kube-apiserver",
		Hosts:     []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain, "localhost"},
		Addresses: []netip.Addr{first.IPv4, first.IPv6, plan.APIService(), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
	})
	k.pair("kubelet-client", authority, Subject{Name: "kube-apiserver-kubelet-client", Organization: "system:masters"})
	k.pair("front", front, Subject{Name: "front-proxy-client"})

	admin := k.pair("admin", authority, Subject{Name: "admin", Organization: "system:masters"})
	k.write(layout.Kubeconfig(), []byte(kubeconfig("trellis-"+plan.Name, plan.API(), authority.PEM(), admin)))
	k.pair(balancerName, authority, Subject{Name: "system:" + balancerName})
	k.kubeconfig(layout.path("control", "controller-manager.kubeconfig"), Subject{Name: "system:kube-controller-manager"})
	k.kubeconfig(layout.path("control", "scheduler.kubeconfig"), Subject{Name: "system:kube-scheduler"})
	for _, node := range plan.AllNodes() {
		name := "system:node:" + node.Name
		server := k.issue(authority, Subject{Name: name, Hosts: []string{node.Name}, Addresses: []netip.Addr{node.IPv4, node.IPv6}})
		k.write(layout.Node(node, "lib", "kubelet", "ca.crt"), authority.PEM())
		k.write(layout.Node(node, "lib", "kubelet", "server.crt"), server.Certificate)
		k.write(layout.Node(node, "lib", "kubelet", "server.key"), server.Key)
		k.kubeconfig(layout.Node(node, "lib", "kubelet", "kubeconfig"), Subject{Name: name, Organization: "system:nodes"})
		k.kubeconfig(layout.Node(node, "lib", "kube-proxy", "kubeconfig"), Subject{Name: "system:kube-proxy"})
	}
	return k.err
}

// keyring writes keys until the first error.
type keyring struct {
	layout    Layout
	plan      Plan
	authority *Authority
	err       error
}

func (k *keyring) fail(err error) {
	if k.err == nil {
		k.err = err
	}
}

func (k *keyring) write(name string, data []byte) {
	if k.err == nil {
		k.err = os.WriteFile(name, data, 0o600)
	}
}

func (k *keyring) issue(authority *Authority, subject Subject) Credential {
	credential, err := authority.issue(subject)
	k.fail(err)
	return credential
}

func (k *keyring) pair(name string, authority *Authority, subject Subject) Credential {
	credential := k.issue(authority, subject)
	k.write(k.layout.PKI(name+".crt"), credential.Certificate)
	k.write(k.layout.PKI(name+".key"), credential.Key)
	return credential
}

func (k *keyring) kubeconfig(name string, user Subject) {
	text := kubeconfig("trellis-"+k.plan.Name, k.plan.API(), k.authority.PEM(), k.issue(k.authority, user))
	k.write(name, []byte(text))
}

// kubeconfig holds everything itself, so it can be copied anywhere.
func kubeconfig(cluster, server string, authority []byte, user Credential) string {
	encoded := base64.StdEncoding.EncodeToString
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[1]s
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
contexts:
- name: %[1]s
  context: {cluster: %[1]s, user: %[1]s}
current-context: %[1]s
`, cluster, server, encoded(authority), encoded(user.Certificate), encoded(user.Key))
}

// Server is one part of Kubernetes: its name and the arguments of the kube program.
type Server struct {
	Name string
	Args []string
}

const etcdAddress = "http://127.0.0.1:2379"

// etcd need not survive a power cut, so it does not wait for the disk.
func etcd(layout Layout) Server {
	return Server{"etcd", []string{
		"etcd",
		"--data-dir=" + layout.path("etcd"),
		"--listen-client-urls=" + etcdAddress,
		"--advertise-client-urls=" + etcdAddress,
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--unsafe-no-fsync",
		"--log-level=warn",
	}}
}

func apiServer(layout Layout, plan Plan) Server {
	address := plan.node(1).IPv4.String()
	return Server{"kube-apiserver", []string{
		"apiserver",
		"--etcd-servers=" + etcdAddress,
		"--bind-address=" + address,
		"--advertise-address=" + address,
		fmt.Sprintf("--secure-port=%d", apiPort),
		"--tls-cert-file=" + layout.PKI("apiserver.crt"),
		"--tls-private-key-file=" + layout.PKI("apiserver.key"),
		"--client-ca-file=" + layout.PKI("ca.crt"),
		"--service-cluster-ip-range=" + plan.Services4().String() + "," + plan.Services6().String(),
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + layout.PKI("sa.pub"),
		"--service-account-signing-key-file=" + layout.PKI("sa.key"),
		// A node's name does not resolve.
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-certificate-authority=" + layout.PKI("ca.crt"),
		"--kubelet-client-certificate=" + layout.PKI("kubelet-client.crt"),
		"--kubelet-client-key=" + layout.PKI("kubelet-client.key"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--proxy-client-cert-file=" + layout.PKI("front.crt"),
		"--proxy-client-key-file=" + layout.PKI("front.key"),
		"--requestheader-client-ca-file=" + layout.PKI("front-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		// Pods leave a lost node soon, for tests that lose one.
		"--default-not-ready-toleration-seconds=10",
		"--default-unreachable-toleration-seconds=10",
		// Two files of 32 MB at most, which go with the cluster.
		"--audit-policy-file=" + layout.path("control", auditPolicy),
		"--audit-log-path=" + layout.AuditLog(),
		"--audit-log-maxsize=32",
		"--audit-log-maxbackup=1",
		"--runtime-config=" + apiGroups,
		"--feature-gates=" + gates("=true", ","),
	}}
}

func controllerManager(layout Layout) Server {
	config := layout.path("control", "controller-manager.kubeconfig")
	return Server{"kube-controller-manager", []string{
		"controller-manager",
		"--kubeconfig=" + config,
		"--authentication-kubeconfig=" + config,
		"--authorization-kubeconfig=" + config,
		"--service-account-private-key-file=" + layout.PKI("sa.key"),
		"--root-ca-file=" + layout.PKI("ca.crt"),
		"--cluster-signing-cert-file=" + layout.PKI("ca.crt"),
		"--cluster-signing-key-file=" + layout.PKI("ca.key"),
		"--use-service-account-credentials",
		// Its own brake would cost five seconds at the start.
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
		// A node's pod addresses are part of its CNI configuration.
		"--allocate-node-cidrs=false",
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
		// Sooner than the 50 s of a real cluster, later than a loaded machine needs for a lease.
		"--node-monitor-grace-period=20s",
		"--node-monitor-period=1s",
		"--feature-gates=" + gates("=true", ","),
	}}
}

func scheduler(layout Layout) Server {
	config := layout.path("control", "scheduler.kubeconfig")
	return Server{"kube-scheduler", []string{
		"scheduler",
		"--kubeconfig=" + config,
		"--authentication-kubeconfig=" + config,
		"--authorization-kubeconfig=" + config,
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
	}}
}

func gates(suffix, separator string) string {
	return strings.Join(featureGates, suffix+separator) + suffix
}
