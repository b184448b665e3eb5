package suite

// Every version of every cryptographic object that ever stood in a Secret or a status of a namespace, by watches that
// miss nothing.

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// madeVersion of an object.
type madeVersion struct {
	owner   string
	version int64
}

// heldVersion is what a Secret holds since it was last written.
type heldVersion struct {
	madeVersion
	revision string
}

// toldVersion is what statuses said of it.
type toldVersion struct {
	since int64
	marks []string
}

// seenVersions is all that was seen.
type seenVersions struct {
	end   context.CancelFunc
	mutex sync.Mutex
	// made are the fingerprints, each with a hash of the Secret's content, of each version in a Secret, and since when
	// it was in one.
	made  map[madeVersion][]string
	since map[madeVersion]int64
	told  map[madeVersion]toldVersion
	// secrets are those that are there, by name.
	secrets map[string]heldVersion
	// newestOf each object, by name, and the states of all versions.
	newestOf map[string]int64
	states   map[madeVersion]string
	// reached is how far each watch has come.
	reached map[string]int64
	awaited []chan struct{}
}

// watchVersions begins with an empty namespace.
func watchVersions(t *testing.T, api *wire, namespace string) *seenVersions {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &seenVersions{
		end: cancel, made: map[madeVersion][]string{}, since: map[madeVersion]int64{}, told: map[madeVersion]toldVersion{},
		secrets: map[string]heldVersion{}, newestOf: map[string]int64{}, states: map[madeVersion]string{}, reached: map[string]int64{},
	}
	from := api.now(t, namespace)
	paths := map[string]func(*testing.T, string, watched){"/api/v1/namespaces/" + namespace + "/secrets": s.secret}
	for _, one := range killObjects {
		paths["/apis/"+quantumGroup+"/v1/namespaces/"+namespace+"/"+strings.ToLower(one.kind)+"s"] = s.object
	}
	for path, heard := range paths {
		s.reached[path] = from
		go s.follow(ctx, t, api, path, from, heard)
	}
	return s
}

// watched is an object of any kind, as a watch shows it.
type watched struct {
	Metadata struct {
		Name, UID, ResourceVersion string
		Annotations                map[string]string
		OwnerReferences            []struct{ UID string }
	}
	Data   map[string]string
	Status killStatus
}

// follow goes on where it was when the API server ends a watch.
func (s *seenVersions) follow(ctx context.Context, t *testing.T, api *wire, path string, from int64, heard func(*testing.T, string, watched)) {
	for ctx.Err() == nil {
		answer, err := api.do(ctx, http.MethodGet, fmt.Sprintf("%s?watch=true&allowWatchBookmarks=true&resourceVersion=%d", path, from), "")
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return
		}
		decoder := json.NewDecoder(answer.Body)
		for {
			var event struct {
				Type   string
				Object watched
			}
			if err := decoder.Decode(&event); err != nil {
				break
			}
			if event.Type == "ERROR" {
				t.Errorf("the watch of %s missed something", path)
				return
			}
			from = revision(t, event.Object.Metadata.ResourceVersion)
			s.mutex.Lock()
			if event.Type != "BOOKMARK" {
				heard(t, event.Type, event.Object)
			}
			s.reached[path] = from
			s.mutex.Unlock()
		}
		answer.Body.Close()
	}
}

func (s *seenVersions) secret(t *testing.T, what string, secret watched) {
	number, err := strconv.ParseInt(secret.Metadata.Annotations["crypto.trellis.dev/secret-version"], 10, 64)
	if err != nil || len(secret.Metadata.OwnerReferences) != 1 {
		return
	}
	version := madeVersion{secret.Metadata.OwnerReferences[0].UID, number}
	if what == "DELETED" {
		delete(s.secrets, secret.Metadata.Name)
		return
	}
	sum := sha256.New()
	for _, item := range slices.Sorted(maps.Keys(secret.Data)) {
		fmt.Fprintln(sum, item, secret.Data[item])
	}
	mark := fmt.Sprintf("%s %.16x", secret.Metadata.Annotations["crypto.trellis.dev/fingerprint"], sum.Sum(nil))
	if !slices.Contains(s.made[version], mark) {
		s.made[version] = append(s.made[version], mark)
	}
	if s.since[version] == 0 {
		s.since[version] = revision(t, secret.Metadata.ResourceVersion)
		for _, one := range s.awaited {
			close(one)
		}
		s.awaited = nil
	}
	s.secrets[secret.Metadata.Name] = heldVersion{version, secret.Metadata.ResourceVersion}
}

func (s *seenVersions) object(t *testing.T, _ string, object watched) {
	for _, one := range object.Status.Versions {
		version := madeVersion{object.Metadata.UID, one.Version}
		told := s.told[version]
		if told.since == 0 {
			told.since = revision(t, object.Metadata.ResourceVersion)
		}
		if !slices.Contains(told.marks, one.Fingerprint) {
			told.marks = append(told.marks, one.Fingerprint)
		}
		s.told[version] = told
		s.states[version] = one.State
		s.newestOf[object.Metadata.Name] = max(s.newestOf[object.Metadata.Name], one.Version)
	}
}

// written is closed when a version is seen in a Secret that was not there before.
func (s *seenVersions) written() <-chan struct{} {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	one := make(chan struct{})
	s.awaited = append(s.awaited, one)
	return one
}

func (s *seenVersions) newest(object string) int64 {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.newestOf[object]
}

// known is the version in a Secret, if a status tells of it.
func (s *seenVersions) known(secret string) (heldVersion, bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	held, there := s.secrets[secret]
	return held, there && s.told[held.madeVersion].since > 0
}

// between counts the kills after which something was in a Secret, and in no status yet.
func (s *seenVersions) between(killed []int64) (count int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, at := range killed {
		for version, since := range s.since {
			if told := s.told[version].since; since <= at && (told == 0 || told > at) {
				count++
				break
			}
		}
	}
	return count
}

// caughtUp waits until everything up to a version of the cluster's state was seen.
func (s *seenVersions) caughtUp(t *testing.T, to int64) {
	t.Helper()
	eventually(t, "the watches have seen everything", func() error {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		for path, reached := range s.reached {
			if reached <= to {
				return errors.New(path + " has not come so far")
			}
		}
		return nil
	})
}
