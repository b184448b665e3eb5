// Of a seed and a ciphertext, in hex, this shows on lines the public key, the secret of the ciphertext, and a
// ciphertext of its own with its secret.
package main

import (
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
)

type key interface {
	Decapsulate(ciphertext []byte) ([]byte, error)
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func main() {
	algorithm, seed, ciphertext := os.Args[1], must(hex.DecodeString(os.Args[2])), must(hex.DecodeString(os.Args[3]))
	const seedLen = mlkem.SeedSize
	var public, opened, theirs, secret []byte
	open := func(key key, ciphertext []byte) []byte { return must(key.Decapsulate(ciphertext)) }
	switch algorithm {
	case "ML-KEM-1024":
		key := must(mlkem.NewDecapsulationKey1024(seed))
		public, opened = key.EncapsulationKey().Bytes(), open(key, ciphertext)
		secret, theirs = key.EncapsulationKey().Encapsulate()
	case "ML-KEM-768", "X25519MLKEM768":
		key := must(mlkem.NewDecapsulationKey768(seed[:seedLen]))
		public, opened = key.EncapsulationKey().Bytes(), open(key, ciphertext[:mlkem.CiphertextSize768])
		secret, theirs = key.EncapsulationKey().Encapsulate()
	}
	if algorithm == "X25519MLKEM768" {
		own := must(ecdh.X25519().NewPrivateKey(seed[seedLen:]))
		public = append(public, own.PublicKey().Bytes()...)
		share := must(ecdh.X25519().NewPublicKey(ciphertext[mlkem.CiphertextSize768:]))
		opened = append(opened, must(own.ECDH(share))...)
		other := must(ecdh.X25519().GenerateKey(rand.Reader))
		theirs = append(theirs, other.PublicKey().Bytes()...)
		secret = append(secret, must(other.ECDH(own.PublicKey()))...)
	}
	for _, line := range [][]byte{public, opened, theirs, secret} {
		fmt.Println(hex.EncodeToString(line))
	}
}
