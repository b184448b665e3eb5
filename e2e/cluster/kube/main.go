// kube is every Kubernetes server, etcd and kubectl in one binary, chosen by its first argument or by
// the name it is called by.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const usage = "usage: kube etcd|apiserver|controller-manager|scheduler|kubelet|proxy|kubectl ..."

func main() {
	name, arguments := filepath.Base(os.Args[0]), os.Args[1:]
	if name != "kubectl" {
		if len(arguments) == 0 {
			fmt.Fprintln(os.Stderr, usage)
			os.Exit(2)
		}
		name, arguments = arguments[0], arguments[1:]
	}
	os.Args = append([]string{programs[name]}, arguments...)
	switch name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "apiserver":
		run(apiserver.NewAPIServerCommand())
	case "controller-manager":
		run(controllermanager.NewControllerManagerCommand())
	case "scheduler":
		run(scheduler.NewSchedulerCommand())
	case "kubelet":
		run(kubelet.NewKubeletCommand(context.Background()))
	case "proxy":
		run(proxy.NewProxyCommand())
	case "kubectl":
		// kubectl words its own errors, a server's are logged.
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			util.CheckErr(err)
		}
	default:
		fmt.Fprintf(os.Stderr, "kube: unknown server %q\n%s\n", name, usage)
		os.Exit(2)
	}
}

// programs are the names under which the servers are known and name themselves.
var programs = map[string]string{
	"etcd":               "etcd",
	"apiserver":          "kube-apiserver",
	"controller-manager": "kube-controller-manager",
	"scheduler":          "kube-scheduler",
	"kubelet":            "kubelet",
	"proxy":              "kube-proxy",
	"kubectl":            "kubectl",
}

func run(command *cobra.Command) {
	os.Exit(cli.Run(command))
}
