package bed

// Trellis is installed as its users do it: by Helm, from the chart.

import (
	"context"
	"path/filepath"
)

// CollectorEndpoint is where proxies send their metrics by OTLP.
const CollectorEndpoint = "http://collector.e2e-watch.svc.cluster.local:4317"

// Chart is the folder of the chart.
func (b *Bed) Chart() string { return filepath.Join(b.Root, "charts", "trellis") }

// install puts Trellis into a namespace that admits only what needs no privilege at all.
func (b *Bed) install(ctx context.Context, values []string) error {
	_, err := b.Kube.Apply(ctx, `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "`+System+`", "labels": {
		"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}}}`)
	if err != nil {
		return err
	}
	args := append([]string{"upgrade", "--install", Release, b.Chart(), "-n", System}, values...)
	_, err = b.HelmRun(ctx, append(args, "--set-string", `controlPlane.podAnnotations.e2e/images=`+b.Images, "--wait", "--timeout", "3m")...)
	return err
}
