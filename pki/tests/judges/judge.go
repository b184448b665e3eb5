// Of a root, an intermediate and a leaf, a time and a host, this shows what they say, and whether the chain
// verifies, where this library knows its signatures.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func read(path string) *x509.Certificate {
	block, rest := pem.Decode(must(os.ReadFile(path)))
	if block == nil || len(rest) > 0 {
		fmt.Fprintln(os.Stderr, path, "is not one block of PEM")
		os.Exit(1)
	}
	return must(x509.ParseCertificate(block.Bytes))
}

func words[T any](name string, values []T) {
	all := []string{name}
	for _, value := range values {
		all = append(all, fmt.Sprint(value))
	}
	fmt.Println(strings.Join(all, " "))
}

func main() {
	root, middle, leaf := read(os.Args[1]), read(os.Args[2]), read(os.Args[3])
	seconds := must(strconv.ParseInt(os.Args[4], 10, 64))
	for i, one := range []*x509.Certificate{root, middle, leaf} {
		name := []string{"root", "middle", "leaf"}[i]
		fmt.Printf("%s %s ca=%t path=%d usage=%d\n", name, one.Subject, one.IsCA, one.MaxPathLen, one.KeyUsage)
	}
	words("dns", leaf.DNSNames)
	words("ip", leaf.IPAddresses)
	words("uri", leaf.URIs)
	words("email", leaf.EmailAddresses)
	words("extended", leaf.ExtKeyUsage)
	if leaf.PublicKeyAlgorithm == x509.UnknownPublicKeyAlgorithm {
		fmt.Println("not verified")
		return
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	between.AddCert(middle)
	must(leaf.Verify(x509.VerifyOptions{
		DNSName:       os.Args[5],
		Roots:         roots,
		Intermediates: between,
		CurrentTime:   time.Unix(seconds, 0),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}))
	fmt.Println("verified")
}
