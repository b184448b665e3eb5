module trellis.dev/e2e/apps

go 1.26
