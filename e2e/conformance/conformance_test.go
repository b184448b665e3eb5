package conformance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/go-logr/logr"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/apis/v1alpha2"
	"sigs.k8s.io/gateway-api/apis/v1alpha3"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"

	"trellis.dev/e2e/conformance/verdict"
	"trellis.dev/e2e/suite/bed"
)

const (
	reportFile = "report.yaml"
	// reportVariable asks for the report to be written instead of compared.
	reportVariable = "TRELLIS_CONFORMANCE_REPORT"

	// patience is how long anything may take that has no smaller bound.
	patience = 60 * time.Second
	// Budgets are for all tests of a part together: those that begin later fail at once, so that a mesh in
	// which nothing works is found out in minutes.
	gatewayBudget = 12 * time.Minute
	meshBudget    = 4 * time.Minute
)

// What the parts of the suite found, for the tests that judge the whole.
var (
	reports  = map[string]*confv1.ConformanceReport{}
	declared = map[string]map[features.FeatureName]bool{}
	ran      sync.Map
)

// TestGateway is the part of the suite about gateways. What they can do, the GatewayClass says.
func TestGateway(t *testing.T) {
	options := options(t)
	accepted(t, options.Client)
	options.GatewayClassName = className
	options.ConformanceProfiles = verdict.Names(verdict.Gateway)
	options.UsableNetworkAddresses, options.UnusableNetworkAddresses = addresses(t, options.RestConfig)
	conform(t, options, false, gatewayBudget)
}

// TestMesh is the part of the suite about the mesh.
func TestMesh(t *testing.T) {
	options := options(t)
	options.SupportedFeatures = verdict.MeshFeatures
	options.ConformanceProfiles = verdict.Names(verdict.Mesh)
	options.NamespaceLabels[bed.Inject] = "enabled"
	conform(t, options, true, meshBudget)
}

// TestNothingIsLeftOut: every test has run, or a reason stands in skips.yaml.
func TestNothingIsLeftOut(t *testing.T) {
	for _, ofMesh := range []bool{false, true} {
		if reports[part(ofMesh)] == nil {
			t.Errorf("the part about the %s did not begin", part(ofMesh))
			continue
		}
		for _, complaint := range skips(t).Unaccounted(verdict.Part(tests.ConformanceTests, ofMesh),
			func(name string) bool { _, ok := ran.Load(name); return ok },
			func(feature features.FeatureName) bool { return declared[part(ofMesh)][feature] }) {
			t.Error(complaint)
		}
	}
}

// part names one of the two parts of the suite.
func part(ofMesh bool) string {
	if ofMesh {
		return "mesh"
	}
	return "gateway"
}

// TestReport holds what was found against the committed report, or writes that.
func TestReport(t *testing.T) {
	if reports["gateway"] == nil || reports["mesh"] == nil {
		t.Fatal("a part of the suite has no report")
	}
	report := verdict.Merge(reports["gateway"], reports["mesh"])
	if found, want := len(report.ProfileReports), len(verdict.Gateway)+len(verdict.Mesh); found != want {
		t.Fatalf("%d profiles were run, not all %d", found, want)
	}
	if os.Getenv(reportVariable) != "" {
		text, err := yaml.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(reportFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	committed, err := os.ReadFile(reportFile)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("no %s is committed; set %s=1 to write it", reportFile, reportVariable)
	}
	if err != nil {
		t.Fatal(err)
	}
	difference, worse, err := verdict.Compare(committed, report)
	switch {
	case err != nil:
		t.Fatal(err)
	case worse:
		t.Errorf("less conforms than %s says:\n%s", reportFile, difference)
	case difference != "":
		t.Errorf("%s is out of date; set %s=1 to write it anew:\n%s", reportFile, reportVariable, difference)
	}
}

func summary() []string {
	var parts []*confv1.ConformanceReport
	for _, report := range reports {
		parts = append(parts, report)
	}
	if len(parts) == 0 {
		return nil
	}
	return verdict.Summary(verdict.Merge(parts...), tests.ConformanceTests)
}

func skips(t *testing.T) verdict.Skips {
	t.Helper()
	text, err := os.ReadFile("skips.yaml")
	if err != nil {
		t.Fatal(err)
	}
	skips, err := verdict.ReadSkips(text, tests.ConformanceTests)
	if err != nil {
		t.Fatalf("skips.yaml: %v", err)
	}
	return skips
}

// conform runs one part of the suite.
func conform(t *testing.T, options suite.ConformanceOptions, ofMesh bool, budget time.Duration) {
	all := within(verdict.Part(tests.ConformanceTests, ofMesh), budget)
	options.SkipTests = skips(t).Names()
	running, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	declared[part(ofMesh)] = map[features.FeatureName]bool{}
	for feature := range running.SupportedFeatures {
		declared[part(ofMesh)][feature] = true
	}
	// Cleanups run last in, first out, and those of the suite's own come between.
	t.Cleanup(func() {
		report, err := running.Report()
		require.NoError(t, err)
		reports[part(ofMesh)] = report
	})
	running.Setup(t, all)
	require.NoError(t, running.Run(t, all))
}

// within gives all tests together a budget of time, and remembers which have begun.
func within(part []suite.ConformanceTest, budget time.Duration) []suite.ConformanceTest {
	var begin sync.Once
	var end time.Time
	for i, test := range part {
		part[i].Test = func(t *testing.T, s *suite.ConformanceTestSuite) {
			begin.Do(func() { end = time.Now().Add(budget) })
			ran.Store(test.ShortName, true)
			if time.Now().After(end) {
				t.Fatalf("not run: the tests before it have used up %s", budget)
			}
			test.Test(t, s)
		}
	}
	return part
}

// options are what both parts have in common.
func options(t *testing.T) suite.ConformanceOptions {
	t.Helper()
	log.SetLogger(logr.Discard())
	access, err := clientcmd.BuildConfigFromFlags("", mesh.Kubeconfig)
	require.NoError(t, err)
	// The cluster is not behind the environment's proxy, and its API server need not be spared.
	access.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	access.QPS, access.Burst = 200, 400
	clients, err := kubernetes.NewForConfig(access)
	require.NoError(t, err)
	objects, err := client.New(access, client.Options{})
	require.NoError(t, err)
	scheme := objects.Scheme()
	require.NoError(t, errors.Join(gateway.Install(scheme), v1alpha2.Install(scheme), v1alpha3.Install(scheme), apiextensions.AddToScheme(scheme)))
	return suite.ConformanceOptions{
		ConfigurableOptions: suite.ConfigurableOptions{
			// The own cluster goes as a whole.
			CleanupBaseResources: !mesh.Own() && !mesh.Keep,
			CleanupTestResources: true,
			NamespaceLabels:      map[string]string{"trellis.dev/e2e": "suite"},
			TimeoutConfig:        timeouts(),
			Implementation: confv1.Implementation{
				Organization: "trellis",
				Project:      "trellis",
				URL:          "https://trellis.dev",
				Version:      "v" + mesh.Version,
				Contact:      []string{"https://trellis.dev/security"},
			},
		},
		Client:     objects,
		Clientset:  clients,
		RestConfig: access,
		ManifestFS: []fs.FS{&conformance.Manifests},
	}
}

// timeouts are the suite's own, but none above our patience, save that for its many pods to come up.
func timeouts() config.TimeoutConfig {
	timeouts := config.DefaultTimeoutConfig()
	for _, bound := range []*time.Duration{
		&timeouts.GatewayMustHaveAddress, &timeouts.GatewayMustHaveCondition, &timeouts.ListenerSetMustHaveCondition,
		&timeouts.GWCMustBeAccepted,
	} {
		*bound = min(*bound, patience)
	}
	timeouts.NamespacesMustBeReady = 3 * patience
	return timeouts
}

// accepted waits for the GatewayClass, and says what there is if it never comes.
func accepted(t *testing.T, objects client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		var class gateway.GatewayClass
		err := objects.Get(ctx, client.ObjectKey{Name: className}, &class)
		if err == nil {
			err = errors.New("it has no condition Accepted")
			for _, condition := range class.Status.Conditions {
				if condition.Type != string(gateway.GatewayClassConditionStatusAccepted) {
					continue
				}
				if condition.Status == "True" && len(class.Status.SupportedFeatures) > 0 {
					return
				}
				err = fmt.Errorf("its condition Accepted is %s (%s), and it declares %d features", condition.Status, condition.Message, len(class.Status.SupportedFeatures))
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("GatewayClass %s was not accepted within %s: %v", className, patience, err)
		case <-time.After(time.Second):
		}
	}
}

// addresses that a Gateway can ask for, and ones that nobody can give it. The former is one of those that the
// own cluster's load balancer gives to nobody else.
func addresses(t *testing.T, access *rest.Config) (usable, unusable []gateway.GatewaySpecAddress) {
	t.Helper()
	kind := gateway.IPAddressType
	unusable = []gateway.GatewaySpecAddress{{Type: &kind, Value: "192.0.2.1"}}
	if !mesh.Own() {
		return nil, unusable
	}
	server, err := url.Parse(access.Host)
	require.NoError(t, err)
	node, err := netip.ParseAddr(server.Hostname())
	require.NoError(t, err)
	slot := node.As4()[2]
	return []gateway.GatewaySpecAddress{{Type: &kind, Value: fmt.Sprintf("198.51.100.%d", 32*slot+29)}}, unusable
}
