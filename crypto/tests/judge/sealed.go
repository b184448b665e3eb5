// Package judge is a second implementation of sealed files, written from the description of the format
// in crypto/src/seal.rs and on nothing but Go's standard library, so that the first one is not only
// compatible with itself.
package judge

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

const (
	form     = "trellis.dev/sealed/v1"
	chunkLen = 64 * 1024
	tagLen   = 16
	keyLen   = 32
)

// A kind of key: its KEM, what a line of the header has behind it to say so, and the DER in front of a
// private and of a public key, up to and with the head of the string that holds it.
type kind struct {
	kem                 hpke.KEM
	mark                string
	pkcs8Head, spkiHead []byte
}

var kinds = []kind{
	{hpke.MLKEM768X25519(), "", fromHex("3034020100300d060b2b0601040183e62d81c87a0420"),
		fromHex("308204d4300d060b2b0601040183e62d81c87a038204c100")},
	{hpke.MLKEM768(), "ML-KEM-768", fromHex("3054020100300b060960864801650304040204428040"),
		fromHex("308204b2300b0609608648016503040402038204a100")},
	{hpke.MLKEM1024(), "ML-KEM-1024", fromHex("3054020100300b060960864801650304040304428040"),
		fromHex("30820632300b06096086480165030404030382062100")},
}

func kindOf(kem hpke.KEM) kind {
	for _, one := range kinds {
		if one.kem.ID() == kem.ID() {
			return one
		}
	}
	panic("a KEM of none of these kinds")
}

func fromHex(text string) []byte {
	out, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return out
}

// PrivateKey reads PKCS#8 in PEM.
func PrivateKey(text []byte) (hpke.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no private key in PEM")
	}
	for _, one := range kinds {
		if seed, ok := bytes.CutPrefix(block.Bytes, one.pkcs8Head); ok {
			return one.kem.NewPrivateKey(seed)
		}
	}
	return nil, errors.New("a key of no known kind")
}

func spki(key hpke.PublicKey) []byte {
	return append(bytes.Clone(kindOf(key.KEM()).spkiHead), key.Bytes()...)
}

func fingerprint(key hpke.PublicKey) string {
	hash := sha256.Sum256(spki(key))
	return hex.EncodeToString(hash[:])
}

func derive(contentKey []byte, use string) ([]byte, error) {
	return hkdf.Key(sha256.New, contentKey, nil, form+" "+use, keyLen)
}

func payloadCipher(contentKey []byte) (cipher.AEAD, error) {
	key, err := derive(contentKey, "payload")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func nonce(index uint64, last bool) []byte {
	out := make([]byte, 12)
	binary.BigEndian.PutUint64(out[3:], index)
	if last {
		out[11] = 1
	}
	return out
}

func headerMAC(contentKey, covered []byte) ([]byte, error) {
	key, err := derive(contentKey, "header")
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(covered)
	return mac.Sum(nil), nil
}

// Seal makes a sealed file.
func Seal(purpose string, recipients []hpke.PublicKey, plain []byte) ([]byte, error) {
	contentKey := make([]byte, keyLen)
	rand.Read(contentKey)
	info := form + "\npurpose: " + purpose + "\n"
	header := []byte(info)
	for _, recipient := range recipients {
		enc, sender, err := hpke.NewSender(recipient, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info))
		if err != nil {
			return nil, err
		}
		wrapped, err := sender.Seal(nil, contentKey)
		if err != nil {
			return nil, err
		}
		line := fmt.Sprintf("to: %s %s %s %s", fingerprint(recipient),
			base64.StdEncoding.EncodeToString(enc), base64.StdEncoding.EncodeToString(wrapped),
			kindOf(recipient.KEM()).mark)
		header = append(header, strings.TrimSuffix(line, " ")+"\n"...)
	}
	mac, err := headerMAC(contentKey, header)
	if err != nil {
		return nil, err
	}
	header = fmt.Appendf(header, "mac: %s\n", base64.StdEncoding.EncodeToString(mac))
	aead, err := payloadCipher(contentKey)
	if err != nil {
		return nil, err
	}
	aad := sha256.Sum256(header)
	sealed := header
	for index := uint64(0); ; index++ {
		chunk := plain[:min(chunkLen, len(plain))]
		plain = plain[len(chunk):]
		last := len(plain) == 0
		sealed = aead.Seal(sealed, nonce(index, last), chunk, aad[:])
		if last {
			return sealed, nil
		}
	}
}

// Open opens a sealed file and says what it was sealed as.
func Open(key hpke.PrivateKey, sealed []byte) (purpose string, plain []byte, err error) {
	rest := sealed
	line := func() string {
		text, after, found := bytes.Cut(rest, []byte("\n"))
		if !found {
			return ""
		}
		rest = after
		return string(text)
	}
	if line() != form {
		return "", nil, errors.New("unknown form")
	}
	purpose, found := strings.CutPrefix(line(), "purpose: ")
	if !found {
		return "", nil, errors.New("no purpose")
	}
	info := sealed[:len(sealed)-len(rest)]
	var contentKey, mac, covered []byte
	for mac == nil {
		covered = sealed[:len(sealed)-len(rest)]
		words := strings.Split(line(), " ")
		switch {
		case (len(words) == 4 || len(words) == 5) && words[0] == "to:":
			if words[1] != fingerprint(key.PublicKey()) {
				continue
			}
			if mark := kindOf(key.KEM()).mark; mark != strings.Join(words[4:], " ") {
				return "", nil, fmt.Errorf("the line is marked %q", words[4:])
			}
			if contentKey, err = unwrap(key, info, words[2], words[3]); err != nil {
				return "", nil, err
			}
		case len(words) == 2 && words[0] == "mac:":
			if mac, err = base64.StdEncoding.DecodeString(words[1]); err != nil {
				return "", nil, err
			}
		default:
			return "", nil, fmt.Errorf("unknown line %q", words[0])
		}
	}
	if contentKey == nil {
		return "", nil, errors.New("not for this key")
	}
	wanted, err := headerMAC(contentKey, covered)
	if err != nil {
		return "", nil, err
	}
	if !hmac.Equal(mac, wanted) {
		return "", nil, errors.New("header changed")
	}
	plain, err = openChunks(contentKey, sealed[:len(sealed)-len(rest)], rest)
	return purpose, plain, err
}

func unwrap(key hpke.PrivateKey, info []byte, enc, wrapped string) ([]byte, error) {
	encapsulated, err := base64.StdEncoding.DecodeString(enc)
	if err != nil {
		return nil, err
	}
	ciphertext, err := base64.StdEncoding.DecodeString(wrapped)
	if err != nil {
		return nil, err
	}
	recipient, err := hpke.NewRecipient(encapsulated, key, hpke.HKDFSHA256(), hpke.AES256GCM(), info)
	if err != nil {
		return nil, err
	}
	return recipient.Open(nil, ciphertext)
}

func openChunks(contentKey, header, rest []byte) ([]byte, error) {
	aead, err := payloadCipher(contentKey)
	if err != nil {
		return nil, err
	}
	aad := sha256.Sum256(header)
	plain := []byte{}
	for index := uint64(0); ; index++ {
		piece := rest[:min(chunkLen+tagLen, len(rest))]
		rest = rest[len(piece):]
		last := len(rest) == 0
		if plain, err = aead.Open(plain, nonce(index, last), piece, aad[:]); err != nil {
			return nil, fmt.Errorf("chunk %d: %w", index, err)
		}
		if last {
			return plain, nil
		}
	}
}
