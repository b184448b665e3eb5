module trellis.dev/images

go 1.26
