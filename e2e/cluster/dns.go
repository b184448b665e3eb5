package main

// The cluster's name service: its manifest, and one question to it in the words of DNS.

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"text/template"
	"time"
)

//go:embed manifests/coredns.yaml
var corednsText string

var corednsTemplate = template.Must(template.New("coredns").Parse(corednsText))

// probeName is a name that every cluster has.
const probeName = "kubernetes.default.svc." + clusterDomain

func corednsManifest(plan Plan) (string, error) {
	var text strings.Builder
	err := corednsTemplate.Execute(&text, map[string]any{
		"Domain":   clusterDomain,
		"Image":    corednsImage,
		"Replicas": min(plan.Nodes, 2),
		"IPv4":     plan.DNS4(),
		"IPv6":     plan.DNS6(),
	})
	return text.String(), err
}

// probeDNS asks a server for the API's own address, and checks the answer.
func probeDNS(ctx context.Context, server, want netip.Addr) error {
	const patience = 500 * time.Millisecond
	dialer := net.Dialer{Timeout: patience}
	connection, err := dialer.DialContext(ctx, "udp", netip.AddrPortFrom(server, 53).String())
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	id := uint16(rand.Uint32())
	if _, err := connection.Write(question(id, probeName)); err != nil {
		return err
	}
	reply := make([]byte, 1500)
	n, err := connection.Read(reply)
	if err != nil {
		return err
	}
	return checkReply(reply[:n], id, want)
}

// question asks for the IPv4 addresses of a name.
func question(id uint16, name string) []byte {
	const recursionDesired, addressRecord, internet = 0x0100, 1, 1
	message := binary.BigEndian.AppendUint16(nil, id)
	message = binary.BigEndian.AppendUint16(message, recursionDesired)
	message = append(message, 0, 1, 0, 0, 0, 0, 0, 0)
	for _, label := range strings.Split(name, ".") {
		message = append(message, byte(len(label)))
		message = append(message, label...)
	}
	message = append(message, 0)
	message = binary.BigEndian.AppendUint16(message, addressRecord)
	return binary.BigEndian.AppendUint16(message, internet)
}

// checkReply: an answer's record ends with the address, so a message with one answer does too unless
// additional records follow; the address is therefore looked for in what follows the header.
func checkReply(reply []byte, id uint16, want netip.Addr) error {
	const header = 12
	if len(reply) < header || binary.BigEndian.Uint16(reply) != id {
		return errors.New("not an answer to the question")
	}
	if code := reply[3] & 0x0f; code != 0 {
		return fmt.Errorf("refused with code %d", code)
	}
	if binary.BigEndian.Uint16(reply[6:]) == 0 {
		return errors.New("no address in the answer")
	}
	if !bytes.Contains(reply[header:], want.AsSlice()) {
		return fmt.Errorf("the answer lacks %s", want)
	}
	return nil
}
