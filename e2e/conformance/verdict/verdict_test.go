package verdict

import (
	"os"
	"slices"
	"strings"
	"testing"

	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

// An upgrade of the suite that changes what there is to reach should be noticed.
func TestSizeOfProfiles(t *testing.T) {
	want := map[suite.ConformanceProfileName][2]int{
		"GATEWAY-HTTP": {36, 58}, "GATEWAY-GRPC": {14, 11}, "GATEWAY-TLS": {19, 16}, "GATEWAY-TCP": {18, 11},
		"MESH-HTTP": {7, 7}, "MESH-GRPC": {2, 0},
	}
	for _, profile := range slices.Concat(Gateway, Mesh) {
		core, extended := size(profile, tests.ConformanceTests)
		if got := [2]int{core, extended}; got != want[profile.Name] {
			t.Errorf("%s has %v tests, want %v", profile.Name, got, want[profile.Name])
		}
	}
}

func TestEveryTestOfTheMeshRuns(t *testing.T) {
	for _, test := range Part(tests.ConformanceTests, true) {
		for _, feature := range test.Features {
			if !slices.Contains(MeshFeatures, feature) {
				t.Errorf("%s needs %s", test.ShortName, feature)
			}
		}
	}
}

func TestCommittedSkips(t *testing.T) {
	text, err := os.ReadFile("../skips.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSkips(text, tests.ConformanceTests); err != nil {
		t.Error(err)
	}
}

func TestBadSkips(t *testing.T) {
	for text, want := range map[string]string{
		"tests: {MeshBasic: }":       "tests.MeshBasic has no reason",
		"tests: {MeshBasic: ' '}":    "tests.MeshBasic has no reason",
		"tests: {MeshBasics: why}":   "no such test",
		"features: {UDPRoute: ''}":   "features.UDPRoute has no reason",
		"features: {UDPRoutes: why}": "no such feature",
		"test: {MeshBasic: why}":     `unknown field "test"`,
	} {
		if _, err := ReadSkips([]byte(text), tests.ConformanceTests); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestWhoDidNotRunIsAskedWhy(t *testing.T) {
	skips, err := ReadSkips([]byte("tests: {MeshPorts: upstream bug}\nfeatures: {UDPRoute: no UDP, ListenerSet: not yet}"), tests.ConformanceTests)
	if err != nil {
		t.Fatal(err)
	}
	pick := func(names ...string) []suite.ConformanceTest {
		var picked []suite.ConformanceTest
		for _, test := range tests.ConformanceTests {
			if slices.Contains(names, test.ShortName) {
				picked = append(picked, test)
			}
		}
		return picked
	}
	all := pick("MeshBasic", "MeshPorts", "MeshFrontend", "UDPRoute", "HTTPRouteRetry", "HTTPRouteCORS", "ListenerSetHTTPRouting")
	if len(all) != 7 {
		t.Fatalf("%d tests", len(all))
	}
	got := skips.Unaccounted(all,
		func(name string) bool { return name == "MeshBasic" },
		func(feature features.FeatureName) bool {
			return feature != features.SupportUDPRoute && feature != features.SupportHTTPRouteCORS && feature != features.SupportHTTPRouteRetry
		})
	want := []string{
		"HTTPRouteCORS did not run: it needs the feature HTTPRouteCORS, which is not declared; declare it, or say in skips.yaml why not",
		"MeshFrontend did not run: nobody says why",
		"skips.yaml: features.ListenerSet is declared now; delete the line",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func profile(name string, core, extended uint32, failed ...string) confv1.ProfileReport {
	return confv1.ProfileReport{
		Name: name,
		Core: confv1.Status{Statistics: confv1.Statistics{Passed: core}, FailedTests: failed},
		Extended: &confv1.ExtendedStatus{
			Status: confv1.Status{Statistics: confv1.Statistics{Passed: extended}},
		},
	}
}

func TestReportsAreMergedAndSummedUp(t *testing.T) {
	merged := Merge(
		&confv1.ConformanceReport{Mode: "default", ProfileReports: []confv1.ProfileReport{profile("GATEWAY-TLS", 19, 3), profile("GATEWAY-HTTP", 30, 40)}, SucceededProvisionalTests: []string{"b"}},
		&confv1.ConformanceReport{ProfileReports: []confv1.ProfileReport{profile("MESH-HTTP", 7, 6)}, SucceededProvisionalTests: []string{"a", "b"}},
	)
	if got := strings.Join(merged.SucceededProvisionalTests, ""); got != "ab" || merged.Mode != "default" {
		t.Errorf("%+v", merged)
	}
	want := []string{
		"GATEWAY-HTTP  core 30/36, extended 40/58", "GATEWAY-TLS   core 19/19, extended 3/16", "MESH-HTTP     core 7/7, extended 6/7",
	}
	if got := Summary(merged, tests.ConformanceTests); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	names := []string{merged.ProfileReports[0].Name, merged.ProfileReports[1].Name, merged.ProfileReports[2].Name}
	if !slices.Equal(names, []string{"GATEWAY-HTTP", "GATEWAY-TLS", "MESH-HTTP"}) {
		t.Errorf("%q", names)
	}
}

func TestReportIsHeldAgainstTheCommittedOne(t *testing.T) {
	then := &confv1.ConformanceReport{Date: "then", ProfileReports: []confv1.ProfileReport{profile("MESH-HTTP", 7, 6)}}
	then.Version = "1"
	committed, err := yaml.Marshal(then)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		now   confv1.ProfileReport
		lines []string
		worse bool
	}{
		"the same":    {profile("MESH-HTTP", 7, 6), nil, false},
		"better":      {profile("MESH-HTTP", 7, 7), []string{"-      Passed: 6", "+      Passed: 7"}, false},
		"worse":       {profile("MESH-HTTP", 6, 6, "MeshBasic"), []string{"+    - MeshBasic", "-      Passed: 7", "+      Passed: 6"}, true},
		"another one": {profile("MESH-GRPC", 7, 6), []string{"-  name: MESH-HTTP", "+  name: MESH-GRPC"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			now := &confv1.ConformanceReport{Date: "now", ProfileReports: []confv1.ProfileReport{c.now}}
			now.Version = "2"
			difference, worse, err := Compare(committed, now)
			if err != nil || worse != c.worse || (difference == "") != (c.lines == nil) {
				t.Errorf("worse %v, %v:\n%s", worse, err, difference)
			}
			for _, line := range c.lines {
				if !strings.Contains(difference, line+"\n") {
					t.Errorf("no line %q in\n%s", line, difference)
				}
			}
		})
	}
	if _, _, err := Compare([]byte("kind: [1"), then); err == nil {
		t.Error("a broken report was read")
	}
}
