// Judges a chain as Go's crypto/x509 does: judge LEAF ISSUING ROOT, each a PEM file.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

func main() {
	length, err := judge(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("verified: %d certificates\n", length)
}

func judge(files []string) (int, error) {
	if len(files) != 3 {
		return 0, errors.New("give a leaf, an issuing certificate and a root")
	}
	var chain []*x509.Certificate
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return 0, fmt.Errorf("%s: no PEM", file)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		chain = append(chain, certificate)
	}
	issuing, roots := x509.NewCertPool(), x509.NewCertPool()
	issuing.AddCert(chain[1])
	roots.AddCert(chain[2])
	options := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: issuing,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	found, err := chain[0].Verify(options)
	if err != nil {
		return 0, err
	}
	return len(found[0]), nil
}
