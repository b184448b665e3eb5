package main

// Which shared libraries programs need, read from the programs themselves: no loader is run, so the
// answer does not depend on the environment.

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// ofTheImage stands for the host's path of a library that does not come from there.
const ofTheImage = "-"

// Libraries finds what dynamically linked programs need.
type Libraries struct {
	machine elf.Machine
	// found maps a library's name to its path on the host.
	found map[string]string
	// interpreter is the dynamic loader's path.
	interpreter string
	// inside says what the image holds at a path by itself: a library there is not looked for elsewhere.
	inside func(path string) (Entry, bool)
}

// Paths returns the host paths of the loader and of all libraries, sorted.
func (l *Libraries) Paths() []string {
	var paths []string
	if l.interpreter != "" {
		paths = append(paths, l.interpreter)
	}
	for _, p := range l.found {
		if p != ofTheImage {
			paths = append(paths, p)
		}
	}
	sort.Strings(paths)
	return paths
}

// Architecture as OCI names it; the builder's own where no program said otherwise.
func (l *Libraries) Architecture() (string, error) {
	switch l.machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	case elf.EM_NONE:
		return "", errors.New("the image holds no program")
	default:
		return "", fmt.Errorf("programs for %s: only x86-64 and aarch64 are known", l.machine)
	}
}

// Need adds what an ELF file needs. Data that is no ELF file needs nothing.
func (l *Libraries) Need(name string, data []byte) error {
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		return nil
	}
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer program.Close()
	if l.machine == elf.EM_NONE {
		l.machine = program.Machine
	}
	if program.Machine != l.machine {
		return fmt.Errorf("%s is for %s, the rest of the image for %s", name, program.Machine, l.machine)
	}
	if err := l.loader(name, program); err != nil {
		return err
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, err := program.DynString(tag)
		if err == nil && slices.ContainsFunc(paths, leadsElsewhere) {
			return fmt.Errorf("%s has a library path of its own (%q), which the image would not honour: link it without", name, paths)
		}
	}
	needed, err := program.ImportedLibraries()
	if err != nil {
		// A static program has no dynamic section.
		return nil
	}
	for _, library := range needed {
		if err := l.add(name, library); err != nil {
			return err
		}
	}
	return nil
}

// leadsElsewhere: what is said relative to the program is tried first, and harmless where nothing is.
func leadsElsewhere(paths string) bool {
	return slices.ContainsFunc(strings.Split(paths, ":"), func(p string) bool { return !strings.HasPrefix(p, "$ORIGIN") })
}

func (l *Libraries) loader(name string, program *elf.File) error {
	for _, segment := range program.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		data := make([]byte, segment.Filesz)
		if _, err := segment.ReadAt(data, 0); err != nil {
			return fmt.Errorf("%s: read the loader's name: %w", name, err)
		}
		l.interpreter = string(bytes.TrimRight(data, "\x00"))
	}
	return nil
}

func (l *Libraries) add(by, library string) error {
	if l.found[library] != "" || library == filepath.Base(l.interpreter) {
		return nil
	}
	folders := l.folders()
	for _, folder := range folders {
		if l.holds(filepath.Join(folder, library)) {
			l.remember(library, ofTheImage)
			return nil
		}
	}
	for _, folder := range folders {
		candidate := filepath.Join(folder, library)
		data, err := os.ReadFile(candidate)
		if err != nil || !l.fits(data) {
			continue
		}
		l.remember(library, candidate)
		if err := l.Need(candidate, data); err != nil {
			return err
		}
		if library == "libc.so.6" {
			return l.resolver(data)
		}
		return nil
	}
	return fmt.Errorf("%s needs %s, which is in none of %q: install the package that holds it", by, library, folders)
}

// holds says whether the image has a file of its own at a path; what that needs is looked for with the rest.
func (l *Libraries) holds(path string) bool {
	if l.inside == nil {
		return false
	}
	entry, found := l.inside(strings.TrimPrefix(path, "/"))
	return found && entry.Kind != directory
}

func (l *Libraries) remember(library, path string) {
	if l.found == nil {
		l.found = map[string]string{}
	}
	l.found[library] = path
}

// resolver adds the modules by which glibc looks up host names, unless this libc has them inside (2.34
// and later), as its own symbols tell.
func (l *Libraries) resolver(libc []byte) error {
	parsed, err := elf.NewFile(bytes.NewReader(libc))
	if err != nil {
		return err
	}
	defer parsed.Close()
	symbols, err := parsed.DynamicSymbols()
	if err != nil {
		return err
	}
	for _, symbol := range symbols {
		if symbol.Name == "_nss_dns_gethostbyname4_r" {
			return nil
		}
	}
	for _, module := range []string{"libnss_files.so.2", "libnss_dns.so.2"} {
		if err := l.add("libc.so.6", module); err != nil {
			return err
		}
	}
	return nil
}

func (l *Libraries) fits(data []byte) bool {
	parsed, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return false
	}
	defer parsed.Close()
	return parsed.Machine == l.machine
}

// folders that the loader searches without a cache, in its order.
func (l *Libraries) folders() []string {
	triple := "x86_64-linux-gnu"
	if l.machine == elf.EM_AARCH64 {
		triple = "aarch64-linux-gnu"
	}
	return []string{"/lib/" + triple, "/usr/lib/" + triple, "/lib64", "/usr/lib64", "/lib", "/usr/lib"}
}
