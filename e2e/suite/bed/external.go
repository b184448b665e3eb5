package bed

// Other people's External Secrets Operator, which brings Secrets into vaults outside of the cluster.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

const (
	// externalModule is the operator's, at the newest version whose parts are all in one module: those of later
	// ones are published nowhere.
	externalModule = "github.com/external-secrets/external-secrets@v0.20.4"
	externalSum    = "h1:HhNAjWfFEshhItphr28SGsHzf2bUP7uDAOVLg76uNAg="
)

// externalParts are its files that name its forty providers and its generators, and what they are to name: the
// provider that keeps in its memory what it is given, and nothing of anybody's cloud.
var externalParts = map[string]string{
	"pkg/provider/register/register.go":  "package register\n\nimport _ \"github.com/external-secrets/external-secrets/pkg/provider/fake\"\n",
	"pkg/generator/register/register.go": "package register\n",
}

// externalTypes are the kinds that it cannot be without.
var externalTypes = []string{
	"external-secrets.io_secretstores", "external-secrets.io_clustersecretstores", "external-secrets.io_externalsecrets",
	"external-secrets.io_clusterexternalsecrets", "external-secrets.io_pushsecrets", "external-secrets.io_clusterpushsecrets",
	"generators.external-secrets.io_generatorstates",
}

// ExternalSecrets builds the operator, once, and returns it with the files that define its kinds.
func (b *Bed) ExternalSecrets(ctx context.Context) (program string, types []string, err error) {
	sum := sha256.New()
	fmt.Fprintln(sum, externalModule, externalParts, externalTypes)
	folder := filepath.Join(b.cache, "external-secrets-"+hex.EncodeToString(sum.Sum(nil)[:6]))
	program = filepath.Join(folder, "external-secrets")
	for _, name := range externalTypes {
		types = append(types, filepath.Join(folder, name+".yaml"))
	}
	if _, err := os.Stat(program); err == nil {
		return program, types, nil
	}
	building, err := os.MkdirTemp(b.cache, "external-secrets-building-")
	if err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(building)
	source, result := filepath.Join(building, "source"), filepath.Join(building, "result")
	if err := b.externalSource(ctx, building, source); err != nil {
		return "", nil, err
	}
	if err := os.Mkdir(result, 0o755); err != nil {
		return "", nil, err
	}
	if err := b.GoBuild(ctx, source, filepath.Join(result, "external-secrets"), "."); err != nil {
		return "", nil, err
	}
	for _, name := range externalTypes {
		text, err := os.ReadFile(filepath.Join(source, "config", "crds", "bases", name+".yaml"))
		if err != nil {
			return "", nil, err
		}
		if err := os.WriteFile(filepath.Join(result, name+".yaml"), text, 0o644); err != nil {
			return "", nil, err
		}
	}
	if err := os.RemoveAll(folder); err != nil {
		return "", nil, err
	}
	return program, types, os.Rename(result, folder)
}

// externalSource puts the operator's source, with those parts alone, into a folder.
func (b *Bed) externalSource(ctx context.Context, building, source string) error {
	if err := b.moduleSource(ctx, building, source, externalModule, externalSum); err != nil {
		return err
	}
	for name, text := range externalParts {
		if err := replaceFile(filepath.Join(source, name), text); err != nil {
			return err
		}
	}
	return nil
}

// moduleSource puts the source of somebody's module into a folder, to be changed there.
func (b *Bed) moduleSource(ctx context.Context, building, source, wanted, sum string) error {
	// Once for the download, of which it tells, and once for the answer alone.
	if err := b.goRun(ctx, building, "mod", "download", wanted); err != nil {
		return err
	}
	text, err := b.goOutput(ctx, building, "mod", "download", "-json", wanted)
	if err != nil {
		return err
	}
	var module struct{ Dir, Sum string }
	if err := json.Unmarshal(text, &module); err != nil {
		return fmt.Errorf("%w in %s", err, text)
	}
	if module.Sum != sum {
		return fmt.Errorf("%s has the sum %s, want %s", wanted, module.Sum, sum)
	}
	return os.CopyFS(source, os.DirFS(module.Dir))
}

// replaceFile writes a file of a copied module. Files of modules cannot be written to, and neither can their copies.
func replaceFile(file, text string) error {
	if err := os.Remove(file); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}
