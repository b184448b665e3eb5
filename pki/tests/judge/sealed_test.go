package judge

import (
	"bytes"
	"crypto/hpke"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "seal anew what the first implementation has to open")

const byGo = "sealed-by-go.bin"

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
