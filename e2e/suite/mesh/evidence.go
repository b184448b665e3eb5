// Package mesh reads what Trellis says about itself: the evidence of its proxies, and metrics.
package mesh

import "time"

// Evidence is the document trellis.dev/evidence/v1.
type Evidence struct {
	APIVersion  string        `json:"apiVersion"`
	From        time.Time     `json:"from"`
	To          time.Time     `json:"to"`
	Connections []Connections `json:"connections"`
	Adoption    Adoption      `json:"adoption"`
}

// Adoption is quantum-safe connections over all.
type Adoption struct {
	Numerator   int64 `json:"numerator"`
	Denominator int64 `json:"denominator"`
}

// Connections are alike in everything but their number.
type Connections struct {
	Source      string  `json:"source"`
	Destination string  `json:"destination"`
	TLS         *string `json:"tls"`
	Group       *string `json:"group"`
	Signatures  struct {
		Client *string `json:"client"`
		Server *string `json:"server"`
	} `json:"signatures"`
	Class   string  `json:"class"`
	Resumed bool    `json:"resumed"`
	Reason  *string `json:"reason"`
	Count   int64   `json:"count"`
}

// ProxyEvidence is what one proxy says of itself.
type ProxyEvidence struct {
	Workload string `json:"workload"`
	Leaf     *Leaf  `json:"leaf"`
	// Companion is the second certificate, of a workload with a dual identity.
	Companion *Leaf         `json:"companion"`
	Inbound   []Connections `json:"inbound"`
	Outbound  []Connections `json:"outbound"`
}

// Leaf is the certificate that a proxy holds.
type Leaf struct {
	Identity  string    `json:"identity"`
	Serial    string    `json:"serial"`
	Algorithm string    `json:"algorithm"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
}

// Why the row is weaker than wanted, "" where it is not.
func (c *Connections) Why() string { return text(c.Reason) }

// GroupName of the key exchange, "" where there was no TLS.
func (c *Connections) GroupName() string { return text(c.Group) }

// Count sums the rows that fit.
func Count(rows []Connections, fits func(*Connections) bool) int64 {
	var total int64
	for i := range rows {
		if fits(&rows[i]) {
			total += rows[i].Count
		}
	}
	return total
}

// ClientSignature and ServerSignature name the scheme of each side, "" where it gave none.
func (c *Connections) ClientSignature() string { return text(c.Signatures.Client) }

// ServerSignature names the scheme of the server.
func (c *Connections) ServerSignature() string { return text(c.Signatures.Server) }

func text(value *string) string {
	if value == nil {
		return ""
	}
	return *value
}
