module trellis.dev/pki/judge

go 1.26
