package mesh

// The Prometheus text format.

import (
	"fmt"
	"strconv"
	"strings"
)

// Sample is one line of metrics.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// ParseMetrics reads the text format.
func ParseMetrics(exposition string) ([]Sample, error) {
	var samples []Sample
	for line := range strings.Lines(exposition) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		sample, err := parseSample(line)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		samples = append(samples, sample)
	}
	return samples, nil
}

// Sum adds the samples of that name whose labels have all the values given.
func Sum(samples []Sample, name string, labels map[string]string) float64 {
	var total float64
	for _, sample := range samples {
		if sample.Name == name && has(sample.Labels, labels) {
			total += sample.Value
		}
	}
	return total
}

func has(all, some map[string]string) bool {
	for name, value := range some {
		if all[name] != value {
			return false
		}
	}
	return true
}

func parseSample(line string) (Sample, error) {
	sample := Sample{Labels: map[string]string{}}
	end := strings.IndexAny(line, "{ ")
	if end < 0 {
		return sample, fmt.Errorf("no value")
	}
	sample.Name = line[:end]
	rest := line[end:]
	if rest[0] == '{' {
		var err error
		if rest, err = parseLabels(rest[1:], sample.Labels); err != nil {
			return sample, err
		}
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return sample, fmt.Errorf("no value")
	}
	value, err := strconv.ParseFloat(fields[0], 64)
	sample.Value = value
	return sample, err
}

// parseLabels reads up to the closing brace and returns what comes after it.
func parseLabels(text string, into map[string]string) (string, error) {
	for {
		text = strings.TrimLeft(text, ", ")
		if rest, found := strings.CutPrefix(text, "}"); found {
			return rest, nil
		}
		name, rest, found := strings.Cut(text, `="`)
		if !found {
			return "", fmt.Errorf("label without a value")
		}
		var value strings.Builder
		at := 0
		for ; at < len(rest) && rest[at] != '"'; at++ {
			if rest[at] == '\\' && at+1 < len(rest) {
				at++
				if rest[at] == 'n' {
					value.WriteByte('\n')
					continue
				}
			}
			value.WriteByte(rest[at])
		}
		if at == len(rest) {
			return "", fmt.Errorf("label %s does not end", name)
		}
		into[name] = value.String()
		text = rest[at+1:]
	}
}
