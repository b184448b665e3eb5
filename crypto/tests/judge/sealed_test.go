package judge

import (
	"bytes"
	"crypto/hpke"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "seal anew what the first implementation has to open")

const (
	byGo     = "sealed-by-go.bin"
	kindByGo = "sealed-kinds-by-go.bin"
)

func vector(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func pinnedKey(t *testing.T) hpke.PrivateKey {
	t.Helper()
	key, err := PrivateKey(vector(t, "x-wing.key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What both pinned files hold: a full chunk and a bit.
func pinnedContent() []byte {
	content := make([]byte, chunkLen+100)
	for at := range content {
		content[at] = byte(at % 251)
	}
	return content
}

func TestTheFileThatTrellisSealedOpens(t *testing.T) {
	purpose, plain, err := Open(pinnedKey(t), vector(t, "sealed-v1.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if purpose != "pinned" || !bytes.Equal(plain, pinnedContent()) {
		t.Errorf("purpose %q, %d bytes", purpose, len(plain))
	}
}

// Trellis opens the same file in tests/seal.rs.
func TestTheFileThatIsSealedHereOpens(t *testing.T) {
	key := pinnedKey(t)
	if *update {
		sealed, err := Seal("pinned by Go", []hpke.PublicKey{key.PublicKey()}, pinnedContent())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join("..", "vectors", byGo), sealed, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	purpose, plain, err := Open(key, vector(t, byGo))
	if err != nil {
		t.Fatal(err)
	}
	if purpose != "pinned by Go" || !bytes.Equal(plain, pinnedContent()) {
		t.Errorf("purpose %q, %d bytes", purpose, len(plain))
	}
}

// Keys of ML-KEM, of the seeds that the other side has as well: 00, 01, … 3f.
func mlKEMKeys(t *testing.T) []hpke.PrivateKey {
	t.Helper()
	seed := make([]byte, 64)
	for at := range seed {
		seed[at] = byte(at)
	}
	var keys []hpke.PrivateKey
	for _, kem := range []hpke.KEM{hpke.MLKEM768(), hpke.MLKEM1024()} {
		key, err := kem.NewPrivateKey(seed)
		if err != nil {
			t.Fatal(err)
		}
		der := append(bytes.Clone(kindOf(kem).pkcs8Head), seed...)
		read, err := PrivateKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if err != nil || !bytes.Equal(read.PublicKey().Bytes(), key.PublicKey().Bytes()) {
			t.Fatalf("the key is read back as another: %v", err)
		}
		keys = append(keys, key)
	}
	return keys
}

// The keys of ML-KEM are recipients beside that of X-Wing.
func TestAFileForKeysOfEveryKindOpensWithEach(t *testing.T) {
	keys := append(mlKEMKeys(t), pinnedKey(t))
	for _, key := range keys {
		purpose, plain, err := Open(key, vector(t, "sealed-kinds.bin"))
		if err != nil || purpose != "pinned" || string(plain) != "for all" {
			t.Errorf("%v: purpose %q, content %q: %v", key.KEM().ID(), purpose, plain, err)
		}
	}
	if *update {
		var recipients []hpke.PublicKey
		for _, key := range keys {
			recipients = append(recipients, key.PublicKey())
		}
		sealed, err := Seal("pinned by Go", recipients, []byte("for all"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join("..", "vectors", kindByGo), sealed, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range keys {
		purpose, plain, err := Open(key, vector(t, kindByGo))
		if err != nil || purpose != "pinned by Go" || string(plain) != "for all" {
			t.Errorf("%v: purpose %q, content %q: %v", key.KEM().ID(), purpose, plain, err)
		}
	}
}

func TestAChangedFileDoesNotOpen(t *testing.T) {
	key := pinnedKey(t)
	sealed := vector(t, "sealed-v1.bin")
	for at := 0; at < len(sealed); at += 997 {
		changed := bytes.Clone(sealed)
		changed[at] ^= 1
		if _, _, err := Open(key, changed); err == nil {
			t.Errorf("opens with byte %d changed", at)
		}
	}
}
