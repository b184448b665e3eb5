// Package verdict judges a run of the conformance suite: whether every test is accounted for, how far each
// profile is met, and whether that is what the committed report says.
package verdict

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

// Skips are what is left out on purpose, each with its reason.
type Skips struct {
	// Tests that are not run, by name.
	Tests map[string]string `json:"tests"`
	// Features that are not declared; tests that need one of them do not run.
	Features map[features.FeatureName]string `json:"features"`
}

// ReadSkips reads skips.yaml, and refuses what names nothing or has no reason.
func ReadSkips(text []byte, tests []suite.ConformanceTest) (Skips, error) {
	var skips Skips
	if err := yaml.UnmarshalStrict(text, &skips); err != nil {
		return Skips{}, err
	}
	for name, reason := range skips.Tests {
		if strings.TrimSpace(reason) == "" {
			return Skips{}, fmt.Errorf("tests.%s has no reason: write why it is skipped", name)
		}
		if !slices.ContainsFunc(tests, func(t suite.ConformanceTest) bool { return t.ShortName == name }) {
			return Skips{}, fmt.Errorf("tests.%s: the suite has no such test; delete the line or correct the name", name)
		}
	}
	for name, reason := range skips.Features {
		if strings.TrimSpace(reason) == "" {
			return Skips{}, fmt.Errorf("features.%s has no reason: write why it is not declared", name)
		}
		if features.GetFeature(name).Name == "" {
			return Skips{}, fmt.Errorf("features.%s: the API has no such feature; delete the line or correct the name", name)
		}
	}
	return skips, nil
}

// Names of the tests that are skipped.
func (s Skips) Names() []string { return slices.Sorted(maps.Keys(s.Tests)) }

// Unaccounted says of each test that did not run why that is not in order. declared are the features that
// the suite was told of, or found.
func (s Skips) Unaccounted(tests []suite.ConformanceTest, ran func(name string) bool, declared func(features.FeatureName) bool) []string {
	var complaints []string
	for name := range s.Features {
		if declared(name) {
			complaints = append(complaints, fmt.Sprintf("skips.yaml: features.%s is declared now; delete the line", name))
		}
	}
	for _, test := range tests {
		if _, skipped := s.Tests[test.ShortName]; skipped || ran(test.ShortName) || s.left(test) {
			continue
		}
		why := "nobody says why"
		for _, feature := range test.Features {
			if !declared(feature) {
				why = fmt.Sprintf("it needs the feature %s, which is not declared; declare it, or say in skips.yaml why not", feature)
			}
		}
		complaints = append(complaints, fmt.Sprintf("%s did not run: %s", test.ShortName, why))
	}
	slices.Sort(complaints)
	return complaints
}

// left says whether a test needs what is not declared on purpose, or what the installed channel does not
// have.
func (s Skips) left(test suite.ConformanceTest) bool {
	for _, feature := range test.Features {
		if _, named := s.Features[feature]; named || features.GetFeature(feature).Channel == features.FeatureChannelExperimental {
			return true
		}
	}
	return false
}
