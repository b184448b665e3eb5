package suite

// What a core dump of the CA would show of keys that it has made.

import (
	"bufio"
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// processesOf are the folders in /proc of a program's processes, where they run on this machine.
func processesOf(t *testing.T, program string) []string {
	t.Helper()
	executables, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, executable := range executables {
		if target, err := os.Readlink(executable); err == nil && target == program {
			found = append(found, filepath.Dir(executable))
		}
	}
	return found
}

// inMemory counts, for each needle, how often it stands in what a process may write to.
func inMemory(process string, needles map[string][]byte) (map[string]int, error) {
	const block, overlap = 1 << 20, 256
	maps, err := os.Open(filepath.Join(process, "maps"))
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	memory, err := os.Open(filepath.Join(process, "mem"))
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	found, read := map[string]int{}, 0
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") {
			continue
		}
		buffer := make([]byte, block+overlap)
		for at := from; at < to; at += block {
			// What went meanwhile cannot be read, and is not there any more.
			n, err := memory.ReadAt(buffer[:min(block+overlap, to-at)], at)
			if err != nil && !errors.Is(err, io.EOF) && n == 0 {
				continue
			}
			read += n
			for what, needle := range needles {
				// One that begins in the overlap is counted with the next block.
				for rest, begin := buffer[:n], 0; ; {
					i := bytes.Index(rest, needle)
					if i < 0 || begin+i >= block {
						break
					}
					found[what]++
					rest, begin = rest[i+1:], begin+i+1
				}
			}
		}
	}
	if read == 0 {
		return nil, fmt.Errorf("nothing of the memory of %s could be read", process)
	}
	return found, lines.Err()
}

// of a private key that the CA made, neither the seed nor the expanded key is in the memory of any of its
// processes, once it is kept.
func TestNoKeyStaysInTheMemoryOfTheCA(t *testing.T) {
	const name = "e2e-memory"
	keeping(t, name)
	processes := processesOf(t, "/usr/bin/trellis-ca")
	if len(processes) == 0 {
		t.Skip("the CA's processes are on another machine")
	}
	must(t, name, `
apiVersion: crypto.trellis.dev/v1
kind: QuantumKEMKeyPair
metadata: {name: pair}
spec: {algorithm: ML-KEM-768}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumSignatureKeyPair
metadata: {name: signer}
spec: {algorithm: ML-DSA-65}`)
	becomes(t, name, "QuantumKEMKeyPair", "pair", "Success")
	becomes(t, name, "QuantumSignatureKeyPair", "signer", "Success")
	needles := map[string][]byte{"the object": []byte(name)}
	for _, made := range []string{"pair", "signer"} {
		kept := secret(t, name, made)
		written, _ := pem.Decode(kept.item(t, "private-key"))
		if written == nil {
			t.Fatalf("private-key of %s is no PEM", made)
		}
		// PKCS#8 ends with the seed: 64 bytes of ML-KEM, 32 of ML-DSA.
		seed, expanded := written.Bytes[len(written.Bytes)-32:], kept.item(t, "private_key")
		needles["the seed of "+made] = seed
		if made == "pair" {
			needles["the first half of its seed"] = written.Bytes[len(written.Bytes)-64 : len(written.Bytes)-32]
			// It begins with the secret vector; the public key, which stands behind it, may be anywhere.
			needles["the expanded pair"] = expanded[:64]
			needles["the middle of the expanded pair"] = expanded[512:576]
		} else {
			// It begins with what is public, 32 bytes, then comes what is not.
			needles["the expanded signer"] = expanded[32:96]
			needles["the middle of the expanded signer"] = expanded[512:576]
		}
		for _, item := range []string{"private-key", "private_key"} {
			label := item + " of " + made + " in base64"
			needles[label] = []byte(kept.Data[item][64:128])
		}
	}
	later := 0
	eventually(t, "the keys are gone", func() error {
		all := map[string]int{}
		for _, process := range processes {
			found, err := inMemory(process, needles)
			if err != nil {
				return err
			}
			for what, times := range found {
				all[what] += times
			}
		}
		if all["the object"] == 0 {
			return errors.New("not even the object's namespace is there: this search does not find anything")
		}
		delete(all, "the object")
		if len(all) > 0 {
			// What is left is what open connections read last: the next that comes is written over it.
			later++
			must(t, name, fmt.Sprintf("apiVersion: crypto.trellis.dev/v1\nkind: QuantumRandomNumber\nmetadata: {name: later-%d}\nspec: {bytes: 16384}", later))
			becomes(t, name, "QuantumRandomNumber", fmt.Sprintf("later-%d", later), "Success")
			return fmt.Errorf("still in memory: %v", all)
		}
		return nil
	})
}
