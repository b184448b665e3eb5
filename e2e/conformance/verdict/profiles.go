package verdict

// How far each profile is met.

import (
	"fmt"
	"slices"

	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// Profiles that are claimed: those of gateways and those of the mesh. UDP is none of them.
var (
	Gateway = []suite.ConformanceProfile{
		suite.GatewayHTTPConformanceProfile, suite.GatewayGRPCConformanceProfile,
		suite.GatewayTLSConformanceProfile, suite.GatewayTCPConformanceProfile,
	}
	Mesh = []suite.ConformanceProfile{suite.MeshHTTPConformanceProfile, suite.MeshGRPCConformanceProfile}
)

// MeshFeatures are declared for the mesh: no object of the standard channel has a status to say them in.
// Beside all that the profiles know are those that further tests of the mesh need.
var MeshFeatures = append(features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures).UnsortedList(),
	features.SupportHTTPRoute,
	features.SupportGRPCRoute,
	features.SupportHTTPRouteParentRefPort,
	features.SupportHTTPRouteResponseHeaderModification,
	features.SupportHTTPRoute303RedirectStatusCode,
	features.SupportHTTPRoute307RedirectStatusCode,
	features.SupportHTTPRoute308RedirectStatusCode,
)

// Names of profiles, as the suite wants them.
func Names(profiles []suite.ConformanceProfile) []suite.ConformanceProfileName {
	names := make([]suite.ConformanceProfileName, 0, len(profiles))
	for _, profile := range profiles {
		names = append(names, profile.Name)
	}
	return names
}

// OfMesh says whether a test is one of the mesh, not of gateways.
func OfMesh(test suite.ConformanceTest) bool {
	return slices.Contains(test.Features, features.SupportMesh)
}

// Part of the tests: those of the mesh, or those of gateways.
func Part(tests []suite.ConformanceTest, mesh bool) []suite.ConformanceTest {
	var part []suite.ConformanceTest
	for _, test := range tests {
		if OfMesh(test) == mesh {
			part = append(part, test)
		}
	}
	return part
}

// size counts a profile's tests, whether or not their features are declared.
func size(profile suite.ConformanceProfile, tests []suite.ConformanceTest) (core, extended int) {
	for _, test := range tests {
		in, beyond := true, false
		for _, feature := range test.Features {
			in = in && (profile.CoreFeatures.Has(feature) || profile.ExtendedFeatures.Has(feature))
			beyond = beyond || !profile.CoreFeatures.Has(feature)
		}
		switch {
		case in && beyond:
			extended++
		case in:
			core++
		}
	}
	return core, extended
}

// Summary is a line for each profile: of all tests that there are, how many passed.
func Summary(report *confv1.ConformanceReport, tests []suite.ConformanceTest) []string {
	var lines []string
	for _, profile := range slices.Concat(Gateway, Mesh) {
		i := slices.IndexFunc(report.ProfileReports, func(p confv1.ProfileReport) bool { return p.Name == string(profile.Name) })
		if i < 0 {
			continue
		}
		found := report.ProfileReports[i]
		var beyond confv1.Status
		if found.Extended != nil {
			beyond = found.Extended.Status
		}
		core, extended := size(profile, tests)
		lines = append(lines, fmt.Sprintf("%-13s core %d/%d, extended %d/%d", profile.Name, found.Core.Passed, core, beyond.Passed, extended))
	}
	return lines
}
