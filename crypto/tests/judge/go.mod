module trellis.dev/crypto/judge

go 1.26
