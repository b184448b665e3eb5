package verdict

// The official report: put together, and held against the committed one.

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/yaml"
)

// Merge makes one report of those of gateways and mesh, which differ in their profiles only.
func Merge(reports ...*confv1.ConformanceReport) *confv1.ConformanceReport {
	merged := *reports[0]
	merged.ProfileReports, merged.SucceededProvisionalTests = nil, nil
	for _, report := range reports {
		merged.ProfileReports = append(merged.ProfileReports, report.ProfileReports...)
		merged.SucceededProvisionalTests = append(merged.SucceededProvisionalTests, report.SucceededProvisionalTests...)
	}
	slices.SortFunc(merged.ProfileReports, func(a, b confv1.ProfileReport) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(merged.SucceededProvisionalTests)
	merged.SucceededProvisionalTests = slices.Compact(merged.SucceededProvisionalTests)
	return &merged
}

// Compare returns what differs between the committed report and one of now, line by line, and whether the
// new one is worse. When it was and of which version is no difference.
func Compare(committed []byte, now *confv1.ConformanceReport) (difference string, worse bool, err error) {
	var then confv1.ConformanceReport
	if err := yaml.UnmarshalStrict(committed, &then); err != nil {
		return "", false, fmt.Errorf("the committed report: %w", err)
	}
	old, err := comparable(then)
	if err != nil {
		return "", false, err
	}
	fresh, err := comparable(*now)
	if err != nil {
		return "", false, err
	}
	return diff(old, fresh), lost(then, *now), nil
}

func comparable(report confv1.ConformanceReport) ([]string, error) {
	report.Date, report.Version = "", ""
	text, err := yaml.Marshal(report)
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n"), err
}

// lost says whether a profile has fewer passed tests than it had.
func lost(then, now confv1.ConformanceReport) bool {
	passed := func(report confv1.ConformanceReport) map[string][2]uint32 {
		counts := map[string][2]uint32{}
		for _, profile := range report.ProfileReports {
			count := [2]uint32{profile.Core.Passed}
			if profile.Extended != nil {
				count[1] = profile.Extended.Passed
			}
			counts[profile.Name] = count
		}
		return counts
	}
	counts := passed(now)
	for name, had := range passed(then) {
		if has := counts[name]; has[0] < had[0] || has[1] < had[1] {
			return true
		}
	}
	return false
}

// diff marks lines that went with - and those that came with +, by the longest common subsequence.
func diff(old, fresh []string) string {
	common := make([][]int, len(old)+1)
	for i := range common {
		common[i] = make([]int, len(fresh)+1)
	}
	for i := len(old) - 1; i >= 0; i-- {
		for j := len(fresh) - 1; j >= 0; j-- {
			if old[i] == fresh[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var text strings.Builder
	for i, j := 0, 0; i < len(old) || j < len(fresh); {
		switch {
		case i < len(old) && j < len(fresh) && old[i] == fresh[j]:
			i, j = i+1, j+1
		case j == len(fresh) || i < len(old) && common[i+1][j] >= common[i][j+1]:
			fmt.Fprintf(&text, "-%s\n", old[i])
			i++
		default:
			fmt.Fprintf(&text, "+%s\n", fresh[j])
			j++
		}
	}
	return text.String()
}
