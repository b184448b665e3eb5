module trellis.dev/e2e/suite

go 1.26
